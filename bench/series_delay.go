package main

import "time"

// mostConnections keep the slowest target busy while Meta takes its time.
const mostConnections = 500

// slowPeak returns the most that the slowest of the probes does in a second with a slow Meta.
func (r *rig) slowPeak(probes []*probe) (slowest float64, err error) {
	for _, p := range probes {
		p.address, p.connections, p.spread = p.target.slow, mostConnections, r.delay
		s, err := r.measure(p, 2*r.warmUp())
		if err != nil {
			return 0, err
		}
		if rate := s.perSecond(); slowest == 0 || rate < slowest {
			slowest = rate
		}
	}
	return slowest, nil
}

// delaySeries has all targets forward to a slow Meta at the same rate, half of what the
// slowest does with that at the most, and compares with the same load on the stub itself.
func (r *rig) delaySeries() error {
	probes, err := r.sends()
	if err != nil {
		return err
	}
	slowest, err := r.slowPeak(probes)
	if err != nil {
		return err
	}
	connections := min(max(1, int(slowest/2*r.delay.Seconds())), mostConnections)
	direct, err := r.direct(r.stub.slow, connections)
	if err != nil {
		return err
	}
	probes = append(probes, direct)
	for _, p := range probes {
		p.connections, p.spread = connections, r.delay
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
	r.note("Half load is %d connections for every target, from the %.0f requests a second that the slowest one does with %d. What is added is to the stub's own %v and %v.",
		connections, slowest, mostConnections, seconds(direct.median(p50)), seconds(direct.median(p99)))
	return nil
}

func seconds(v float64) time.Duration {
	return time.Duration(v * float64(time.Second)).Round(time.Microsecond)
}
