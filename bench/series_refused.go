package main

import (
	"strings"

	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// refusals are the requests that the gateway refuses, by the names of their rows.
var refusals = []struct {
	name  string
	count int // how many different requests there are; 0 is as many as are configured
	key   func(*tenants) tenant.Key
}{
	{"key with a wrong checksum", 1000, func(*tenants) tenant.Key { return misspelt(tenant.NewKey(false)) }},
	{"unknown key, the same again", 1, func(*tenants) tenant.Key { return tenant.NewKey(false) }},
	{"unknown key, another each time", 0, func(*tenants) tenant.Key { return tenant.NewKey(false) }},
	{"over the limit", 1, func(t *tenants) tenant.Key { return t.strict.key }},
	{"no balance", 1, func(t *tenants) tenant.Key { return t.poor.key }},
}

// misspelt is a key of our format that fails its checksum.
func misspelt(key tenant.Key) tenant.Key {
	last := key[len(key)-1]
	if last++; last > 'z' || last == '9'+1 || last == 'Z'+1 {
		last = '0'
	}
	return key[:len(key)-1] + tenant.Key(last)
}

// refusedSeries compares what is refused with what bare Caddy forwards.
func (r *rig) refusedSeries() error {
	bare, err := r.send(r.bare.name, r.bare, smallBody)
	if err != nil {
		return err
	}
	probes := []*probe{bare}
	for _, t := range r.gatewayTargets() {
		for _, refusal := range refusals {
			p, err := r.refused(t, refusal.name, refusal.count, refusal.key)
			if err != nil {
				return err
			}
			probes = append(probes, p)
		}
	}
	if err := r.interleave("refused", probes); err != nil {
		return err
	}
	t := newTable("request", "req/s", "p50", "p99", "CPU a request", "against bare Caddy's send", "CPU of Redis", "errors, or let through")
	for _, p := range probes {
		redis := ""
		if p.target.redis != nil {
			redis = micros(p.median(redisCPU))
		}
		t.add(p.name, number(p.median(perSecond)), millis(p.median(p50)), millis(p.median(p99)), micros(p.median(cpu)),
			p.against(bare, cpu, ratio).ratio(), redis, number(p.median(failures)))
	}
	r.print("Refused requests", t)
	r.refusedBars(bare)
	r.note("Refused requests are logged at level INFO, to a file, as the gateway does by default. Over the limit of one a minute, one a minute is let through.")
	return nil
}

func (r *rig) refused(t *target, name string, count int, key func(*tenants) tenant.Key) (*probe, error) {
	if count == 0 {
		count = r.strangers
	}
	l, err := r.newLoad("refused", func(i int) []byte {
		if i == count {
			return nil
		}
		return httpPost(t.path(""), string(key(t.tenants)), message(smallBody))
	})
	return &probe{name: refusedName(t, name), target: t, address: t.fast, load: l, connections: r.connections, refusal: true}, err
}

func refusedName(t *target, refusal string) string { return plain(t.name) + ": " + refusal }

// plain is the name of a target without its emphasis.
func plain(name string) string { return strings.Trim(name, "*") }
