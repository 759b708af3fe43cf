package main

import (
	"fmt"
	"net/http"
)

// startTargets starts what the main table compares, and checks each.
func (r *rig) startTargets() (err error) {
	if r.bare, err = r.bareCaddy("bare Caddy, `reverse_proxy`", r.caddy); err != nil {
		return err
	}
	if r.embedded, err = r.gateway("**gateway, embedded**", r.caddy, false); err != nil {
		return err
	}
	r.targets = []*target{r.bare, r.embedded}
	for _, optional := range append([]optionalTarget{{"gateway on Redis", missing("redis-server"), r.gatewayOnRedis}}, r.others()...) {
		if optional.needs != nil {
			r.note("Not measured: %s, because %v.", optional.name, optional.needs)
			continue
		}
		t, err := optional.start()
		if err != nil {
			return err
		}
		r.targets = append(r.targets, t)
	}
	return r.checkTargets()
}

// optionalTarget is not measured where something is missing that it needs.
type optionalTarget struct {
	name  string
	needs error
	start func() (*target, error)
}

// others are what the gateway is measured beside: its peers, or another build of itself.
func (r *rig) others() []optionalTarget {
	if r.against == "" {
		return []optionalTarget{
			{"nginx", missing("nginx"), r.nginxNative},
			{"nginx with Lua and Redis", firstError(missing("redis-server"), missing("nginx", nginxModules+"/ngx_http_lua_module.so")), r.nginxLua},
			{"HAProxy", missing("haproxy"), r.haproxy},
			{"Go reverse proxy", nil, r.reverseProxy},
		}
	}
	return []optionalTarget{
		{"other build, bare", nil, func() (*target, error) { return r.bareCaddy("other build, bare", r.against) }},
		{"other build, embedded", nil, func() (*target, error) { return r.gateway("other build, embedded", r.against, false) }},
		{"other build on Redis", missing("redis-server"), func() (*target, error) { return r.gateway("other build on Redis", r.against, true) }},
	}
}

// gateway starts one of this binary, with one app that hardly has limits.
func (r *rig) gateway(name, binary string, onRedis bool) (*target, error) {
	g, err := r.newGateway(name, plan{apps: 1, limits: generous, onRedis: onRedis, caddy: binary})
	if err != nil {
		return nil, err
	}
	return g.target, nil
}

func (r *rig) gatewayOnRedis() (t *target, err error) {
	r.shared, err = r.gateway("**gateway on Redis**", r.caddy, true)
	return r.shared, err
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// checks say what a target has to do before it is measured; those that do not have a
// part of it are not asked for it.
type checks struct{ keys, limits, balance bool }

func (r *rig) checkTargets() error {
	for _, t := range r.targets {
		if err := r.check(t); err != nil {
			return fmt.Errorf("%s does not do its job: %w\n%s", t.name, err, t.process.lastWords())
		}
		r.progress("%s does its job", t.name)
	}
	return nil
}

// check sees that the target lets a message through with the token of its number, and
// refuses what it has to. Each refusal comes from the target, not from the stub behind it.
func (r *rig) check(t *target) error {
	before, err := r.accepted(t)
	if err != nil {
		return err
	}
	active, strict, poor := t.tenants.active[0], t.tenants.strict, t.tenants.poor
	unknown := newCustomer(t.tenants.group, 0)
	type step struct {
		who    customer
		status int
	}
	steps := []step{{active, http.StatusOK}}
	if t.does.keys {
		steps = append(steps, step{unknown, http.StatusUnauthorized})
	}
	if t.does.limits {
		steps = append(steps, step{strict, http.StatusOK}, step{strict, http.StatusTooManyRequests})
	}
	if t.does.balance {
		steps = append(steps, step{poor, http.StatusOK}, step{poor, http.StatusPaymentRequired})
	}
	expected := uint64(0)
	for _, s := range steps {
		if err := t.expect(s.who, smallBody, s.status); err != nil {
			return err
		}
		if s.status == http.StatusOK {
			expected++
		}
	}
	after, err := r.accepted(t)
	if err != nil {
		return err
	}
	if after-before != expected {
		return fmt.Errorf("meta has accepted %d messages with the right token, and not %d", after-before, expected)
	}
	return nil
}

// accepted is how many messages of a target's tenants Meta has accepted so far.
func (r *rig) accepted(t *target) (uint64, error) {
	counts, err := r.stub.counts()
	return counts.Accepted[t.tenants.group], err
}
