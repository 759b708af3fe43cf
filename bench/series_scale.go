package main

import (
	"fmt"
	"time"
)

// scaleCase is a gateway that has much of something, under one load.
type scaleCase struct {
	name string
	plan plan
	// base is the case that it is compared with.
	base string
	body int // the length of its messages in bytes; 0 is the small one
	// at is the case whose gateway it loads; empty is one of its own.
	at string
}

// The rows that others are compared with.
const (
	bareSmall = "bare Caddy"
	bareLarge = "bare Caddy, bodies of 60 KiB"
	little    = "1 app"
)

// scaleSeries shows what a send costs the embedded gateway where there is much of
// something, beside what it costs where there is little.
func (r *rig) scaleSeries() error {
	some := min(1000, r.apps/2)
	high, low := r.limitCases(false)
	return r.scale("scale", "Scale, embedded", []scaleCase{
		{name: little, plan: plan{apps: 1, limits: generous}},
		{name: fmt.Sprintf("%d apps", some), plan: plan{apps: some, limits: generous}, base: little},
		{name: fmt.Sprintf("%d apps", r.apps), plan: plan{apps: r.apps, limits: generous}, base: little},
		{name: fmt.Sprintf("%d keys stored, 1 used", r.keys), plan: plan{apps: 1, limits: generous, keys: r.keys}, base: little},
		{name: fmt.Sprintf("%d entries in the ledger", r.ledger), plan: plan{apps: 1, limits: generous, entries: r.ledger}, base: little},
		high, low,
		{name: "1 app, bodies of 60 KiB", at: little, body: largeBody, base: bareLarge},
	})
}

// scaleRedisSeries does so on Redis.
func (r *rig) scaleRedisSeries() error {
	if missing("redis-server") != nil {
		return nil // which was said before
	}
	high, low := r.limitCases(true)
	return r.scale("scale-redis", "Scale, on Redis", []scaleCase{
		{name: little, plan: plan{apps: 1, limits: generous, onRedis: true}},
		{name: fmt.Sprintf("%d apps", r.redisApps), plan: plan{apps: r.redisApps, limits: generous, onRedis: true}, base: little},
		high, low,
		{name: "1 app, bodies of 60 KiB", at: little, body: largeBody, base: bareLarge},
	})
}

// limitCases are as many apps with a high limit, and with one that they keep to.
func (r *rig) limitCases(onRedis bool) (high, low scaleCase) {
	high = scaleCase{plan: plan{apps: r.limited, limits: generous, onRedis: onRedis}}
	low = scaleCase{plan: plan{apps: r.limited, limits: ordinary, onRedis: onRedis}}
	for _, c := range []*scaleCase{&high, &low} {
		c.name = fmt.Sprintf("%d apps of %d a second", r.limited, c.plan.limits.PerSecond)
	}
	low.base = high.name
	return high, low
}

// scaled is a case while it is measured.
type scaled struct {
	scaleCase
	probe  *probe
	starts []float64 // seconds from each start to the first send
}

// scale measures the cases, and bare Caddy beside them.
func (r *rig) scale(series, title string, cases []scaleCase) error {
	var all []*scaled
	for _, bare := range []scaleCase{{name: bareSmall}, {name: bareLarge, body: largeBody, base: bareSmall}} {
		p, err := r.send(bare.name, r.bare, max(bare.body, smallBody))
		if err != nil {
			return err
		}
		all = append(all, &scaled{scaleCase: bare, probe: p})
	}
	gateways := make(map[string]*gateway)
	for _, c := range cases {
		s := &scaled{scaleCase: c}
		g := gateways[c.at]
		var err error
		if g == nil {
			if g, err = r.startOften(s, title); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			gateways[c.name] = g
		}
		if s.probe, err = r.send(c.name, g.target, max(c.body, smallBody)); err != nil {
			return err
		}
		s.probe.through = len(g.tenants.active) > 1
		all = append(all, s)
	}
	var probes []*probe
	for _, s := range all {
		probes = append(probes, s.probe)
	}
	if err := r.interleave(series, probes); err != nil {
		return err
	}
	r.printScale(series, title, all)
	return nil
}

// startOften starts the gateway of a case as often as there are rounds.
func (r *rig) startOften(s *scaled, title string) (*gateway, error) {
	begin := time.Now()
	g, err := r.newGateway(title+": "+s.name, s.plan)
	if err != nil {
		return nil, err
	}
	r.progress("%s: prepared in %v", s.name, time.Since(begin).Round(time.Millisecond))
	for range r.rounds {
		g.process.stop()
		if err := r.launch(g); err != nil {
			return nil, err
		}
		s.starts = append(s.starts, g.started.Seconds())
	}
	return g, nil
}

func (r *rig) printScale(series, title string, all []*scaled) {
	t := newTable("case", "req/s", "CPU a send", "against", "", "CPU of Redis", "first send after start", "memory then", "memory under load", "errors")
	for _, s := range all {
		p, against, redis, start, then := s.probe, "", "", "", ""
		if s.base != "" {
			against = p.against(r.measured[series+" "+s.base], cpu, ratio).ratio()
		}
		if p.target.redis != nil {
			redis = micros(p.median(redisCPU))
		}
		if s.starts != nil {
			start, then = millis(median(s.starts)), mebibytes(p.median(idle))
		}
		t.add(s.name, number(p.median(perSecond)), micros(p.median(cpu)), s.base, against, redis, start, then, mebibytes(p.median(memory)), number(p.median(failures)))
		r.scaleBars(series, title, s)
	}
	r.print(title, t)
}

// scaleBars are those of one case. What bodies cost bare Caddy is not for the gateway to
// answer for, so there it is the ratios to it that are compared.
func (r *rig) scaleBars(series, title string, s *scaled) {
	base := r.measured[series+" "+s.base]
	if base == nil || s.probe.target == r.bare {
		return
	}
	what := title + ": CPU a send, " + s.name + ", against " + s.base
	grown := s.probe.against(base, cpu, ratio)
	if s.body != 0 {
		what += ", and that against the same ratio of small ones"
		small := r.measured[series+" "+little].against(r.measured[series+" "+bareSmall], cpu, ratio).median
		grown = spread{ratio(grown.median, small), ratio(grown.lowest, small), ratio(grown.highest, small)}
	}
	r.bar(what, "≤ 1.10", "", grown.ratio())
	if s.plan.keys > 0 {
		r.bar(title+": start with "+s.name, "≤ 2 s", "", millis(spreadOf(s.starts).highest))
		r.bar(title+": memory after the start with "+s.name+", against "+s.base, "≤ 1.10", "", s.probe.against(base, idle, ratio).ratio())
	}
}
