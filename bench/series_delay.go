package main

import "time"

// peaks returns the most that each target does in a second.
func (r *rig) peaks() (slowest float64, err error) {
	probes, err := r.sends()
	if err != nil {
		return 0, err
	}
	for _, p := range probes {
		if done := r.measured["main "+p.name]; done != nil {
			p = done
		} else {
			s, err := r.measure(p, r.warmUp())
			if err != nil {
				return 0, err
			}
			p.samples = append(p.samples, s)
		}
		if rate := p.median(perSecond); slowest == 0 || rate < slowest {
			slowest = rate
		}
	}
	return slowest, nil
}

// delaySeries has all targets forward to a slow Meta at the same rate, half of what the
// slowest can do, and compares with the same load on the stub itself.
func (r *rig) delaySeries() error {
	slowest, err := r.peaks()
	if err != nil {
		return err
	}
	const mostConnections = 500
	connections := min(max(1, int(slowest/2*r.delay.Seconds())), mostConnections)
	probes, err := r.sends()
	if err != nil {
		return err
	}
	direct, err := r.direct(r.stub.slow, connections)
	if err != nil {
		return err
	}
	for _, p := range probes {
		p.address, p.connections = p.target.slow, connections
	}
	probes = append(probes, direct)
	for _, p := range probes {
		p.spread = r.delay
	}
	if err := r.interleave("delay", probes); err != nil {
		return err
	}
	t := newTable("target", "req/s", "p50 added", "p99 added", "CPU a request", "CPU of Redis", "under load", "errors")
	for _, p := range probes {
		redis := ""
		if p.target.redis != nil {
			redis = micros(p.median(redisCPU))
		}
		t.add(p.name, number(p.median(perSecond)), p.against(direct, p50, difference).millis(), p.against(direct, p99, difference).millis(),
			micros(p.median(cpu)), redis, mebibytes(p.median(memory)), number(p.median(failures)))
	}
	r.print("Sends, 300 bytes, Meta takes "+r.delay.String()+", half load", t)
	r.delayBars(direct)
	r.note("Half load is %d connections for every target, from the slowest one's %.0f requests a second. What is added is to the stub's own %v and %v.",
		connections, slowest, seconds(direct.median(p50)), seconds(direct.median(p99)))
	return nil
}

func seconds(v float64) time.Duration {
	return time.Duration(v * float64(time.Second)).Round(time.Microsecond)
}
