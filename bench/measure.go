package main

import (
	"fmt"
	"slices"
	"time"
)

// target is a program under load.
type target struct {
	name string
	// fast and slow are its addresses, in front of a Meta that answers at once
	// and of one that takes its time.
	fast, slow string
	// path is what is posted to for a phone number id.
	path func(phone string) string
	// processes are those whose CPU is counted, redis the one beside them, if any.
	process *process
	redis   *process
	tenants *tenants
	gateway *gateway // nil where it is none
	idle    int64    // memory before any load, in bytes
	does    checks
}

// probe is one row of a table: a target under one load.
type probe struct {
	name        string
	target      *target
	address     string
	load        *load
	connections int
	// refusal: every answer is to be one.
	refusal bool
	// spread is over how long the connections begin, so that they do not all wait for
	// a slow Meta at the same time. through has the load pass once before it is measured.
	spread  time.Duration
	through bool
	samples []sample
}

// sample is what one round has measured.
type sample struct {
	figures
	// cpu and redis are time a request, memory is in bytes.
	cpu, redis   time.Duration
	idle, memory int64
	errors       int
}

// measure loads the target once.
func (r *rig) measure(p *probe, duration time.Duration) (s sample, err error) {
	watched := []*process{p.target.process}
	if p.target.redis != nil {
		watched = append(watched, p.target.redis)
	}
	before, err := cpuOf(watched)
	if err != nil {
		return s, err
	}
	peak := p.target.process.peak()
	s.figures, err = r.drive(p, duration)
	s.memory = peak()
	if err != nil {
		return s, fmt.Errorf("%s: %w", p.name, err)
	}
	after, err := cpuOf(watched)
	if err != nil {
		return s, fmt.Errorf("%s is gone: %w\n%s", p.name, err, p.target.process.lastWords())
	}
	s.cpu = (after[0] - before[0]) / time.Duration(s.requests)
	if len(watched) > 1 {
		s.redis = (after[1] - before[1]) / time.Duration(s.requests)
	}
	s.idle = p.target.idle
	s.errors = s.broken + s.refused
	if p.refusal {
		s.errors = s.broken + s.requests - s.refused
	}
	return s, nil
}

func cpuOf(processes []*process) (cpu []time.Duration, err error) {
	for _, p := range processes {
		u, err := p.usage()
		if err != nil {
			return nil, err
		}
		cpu = append(cpu, u.cpu)
	}
	return cpu, nil
}

// warmUp is how long a target runs before it is measured.
func (r *rig) warmUp() time.Duration { return min(time.Second, r.duration) }

// warm runs a target before it is measured, until all of the load has passed where that
// is asked for.
func (r *rig) warm(p *probe) error {
	for sent := 0; ; {
		s, err := r.measure(p, r.warmUp())
		if err != nil {
			return err
		}
		if sent += s.requests; !p.through || sent >= p.load.count {
			return nil
		}
	}
}

// interleave measures all probes once a round, beginning with another one each time,
// and keeps them for the ratios.
func (r *rig) interleave(series string, probes []*probe) error {
	for _, p := range probes {
		r.measured[series+" "+p.name] = p
		if err := r.warm(p); err != nil {
			return err
		}
	}
	for round := range r.rounds {
		for i := range probes {
			p := probes[(i+round)%len(probes)]
			s, err := r.measure(p, r.duration)
			if err != nil {
				return err
			}
			p.samples = append(p.samples, s)
			r.progress("round %d %-34s %7.0f/s p50 %v p99 %v cpu %v redis %v errors %d", round+1, p.name, s.perSecond(), s.p50, s.p99, s.cpu, s.redis, s.errors)
		}
	}
	return nil
}

// The figures of a sample.
func perSecond(s sample) float64 { return s.perSecond() }
func p50(s sample) float64       { return s.p50.Seconds() }
func p99(s sample) float64       { return s.p99.Seconds() }
func cpu(s sample) float64       { return s.cpu.Seconds() }
func redisCPU(s sample) float64  { return s.redis.Seconds() }
func idle(s sample) float64      { return float64(s.idle) }
func memory(s sample) float64    { return float64(s.memory) }
func failures(s sample) float64  { return float64(s.errors) }

// median is the one in the middle of what was measured, and 0 of nothing.
func (p *probe) median(figure func(sample) float64) float64 {
	return median(each(p.samples, figure))
}

func each(samples []sample, figure func(sample) float64) (values []float64) {
	for _, s := range samples {
		values = append(values, figure(s))
	}
	return values
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 0 {
		return (sorted[middle-1] + sorted[middle]) / 2
	}
	return sorted[middle]
}

// spread is the middle of some values, and the outer ones.
type spread struct{ median, lowest, highest float64 }

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	return spread{median(values), slices.Min(values), slices.Max(values)}
}

// against compares a figure of two probes round by round.
func (p *probe) against(base *probe, figure func(sample) float64, compare func(a, b float64) float64) spread {
	var values []float64
	for i := range min(len(p.samples), len(base.samples)) {
		values = append(values, compare(figure(p.samples[i]), figure(base.samples[i])))
	}
	return spreadOf(values)
}

func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

func difference(a, b float64) float64 { return a - b }
