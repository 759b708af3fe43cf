package main

import "fmt"

// bar is what the project asks of itself, and what was seen: a ratio, or an amount, as a
// median (lowest..highest) over the rounds.
type bar struct{ what, must, aim, seen string }

func (r *rig) bar(what, must, aim, seen string) {
	r.bars = append(r.bars, bar{what, must, aim, seen})
}

func (r *rig) printBars() {
	t := newTable("bar", "must", "aim", "seen")
	for _, b := range r.bars {
		t.add(b.what, b.must, b.aim, b.seen)
	}
	r.print("Bars", t)
}

// mainBars are those of a send. The gateway on Redis is not there where Redis is not.
func (r *rig) mainBars(bare *probe) {
	r.bar("CPU a send, embedded, against bare Caddy", "≤ 1.25", "≤ 1.10", r.probe("main", r.embedded).against(bare, cpu, ratio).ratio())
	if r.shared == nil {
		return
	}
	p := r.probe("main", r.shared)
	r.bar("CPU a send on Redis, the gateway's, against bare Caddy", "≤ 1.45", "≤ 1.25", p.against(bare, cpu, ratio).ratio())
	r.bar("CPU of redis-server a send", "≤ 25 µs", "≤ 12 µs", spreadOf(each(p.samples, redisCPU)).micros())
}

func (r *rig) delayBars(direct *probe) {
	for _, t := range r.gatewayTargets() {
		seen := r.probe("delay", t).against(direct, p50, difference).millis()
		r.bar(fmt.Sprintf("p50 added to %v of Meta at half load, %s", r.delay, plain(t.name)), "≤ 2 ms", "≤ 1 ms", seen)
	}
}

func (r *rig) refusedBars(bare *probe) {
	for _, t := range r.gatewayTargets() {
		for _, refusal := range refusals {
			name := refusedName(t, refusal.name)
			r.bar("CPU of a refused request against bare Caddy's send, "+name, "≤ 0.55", "≤ 0.45", r.measured["refused "+name].against(bare, cpu, ratio).ratio())
		}
	}
}

func (r *rig) webhookBars() {
	for _, h := range r.hooks {
		r.bar(fmt.Sprintf("webhook events a second against sends a second, embedded: %s, %d in each", h.name, h.events), "≥ 1", "≥ 5", h.againstSends().ratio())
	}
}

// probe is what was measured of a target in one of the series that have all of them.
func (r *rig) probe(series string, t *target) *probe { return r.measured[series+" "+t.name] }

func (r *rig) gatewayTargets() (gateways []*target) {
	for _, t := range r.targets {
		if t.gateway != nil {
			gateways = append(gateways, t)
		}
	}
	return gateways
}
