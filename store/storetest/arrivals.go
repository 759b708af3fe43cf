package storetest

import (
	"math"
	"math/rand/v2"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// trace is a sequence of requests to one app.
type trace struct {
	limits tenant.RateLimit
	visits []visit
	// restarts are the visits before which the store is restarted.
	restarts []int
}

// visit is a number of requests at one time, a gap after the visit before.
type visit struct {
	gap      time.Duration
	requests int
}

// pattern makes visits of n requests in all, for a limit in a window.
type pattern struct {
	name   string
	visits func(r *rand.Rand, window time.Duration, limit, n int) []visit
}

var patterns = []pattern{
	{"steady", steady},
	{"Poisson", poisson},
	{"bursts", bursts},
	{"on the edge of the window", edges},
	{"one early, the rest late", lateFlood},
	{"long gaps", longGaps},
	{"mixed", mixed},
}

// trace chooses limits and makes some three times as many requests as they let
// through in a window.
func (p pattern) trace(r *rand.Rand, realTime bool) trace {
	l, window, limit := randomLimits(r, realTime)
	t := trace{limits: l}
	var total time.Duration
	for _, v := range p.visits(r, window, limit, 3*limit+100) {
		if total += v.gap; realTime && total > 3*time.Second {
			break
		}
		t.visits = append(t.visits, v)
	}
	if !realTime && r.IntN(3) == 0 {
		t.restarts = []int{r.IntN(len(t.visits)), r.IntN(len(t.visits))}
	}
	return t
}

// randomLimits returns limits of 1 to 3000, small ones as often as large ones,
// and one of the windows that can fill, with its limit.
func randomLimits(r *rand.Rand, realTime bool) (tenant.RateLimit, time.Duration, int) {
	n := int(math.Exp(r.Float64() * math.Log(3_000)))
	switch r.IntN(4) {
	case 0: // the minute alone
		if !realTime {
			return tenant.RateLimit{PerSecond: n + r.IntN(3_000), PerMinute: n}, time.Minute, n
		}
	case 1: // either
		l := tenant.RateLimit{PerSecond: n, PerMinute: n * (1 + r.IntN(8))}
		if !realTime && r.IntN(2) == 0 && l.PerMinute <= 3_000 {
			return l, time.Minute, l.PerMinute
		}
		return l, time.Second, n
	}
	return tenant.RateLimit{PerSecond: n, PerMinute: 60*n + r.IntN(n)}, time.Second, n
}

// of returns a share of d in whole microseconds, in which stores count.
func of(d time.Duration, share float64) time.Duration {
	return time.Duration(float64(d) * share).Truncate(time.Microsecond)
}

// steady comes one by one, or a few at once where one by one would be more than
// some hundred times in a window.
func steady(r *rand.Rand, window time.Duration, limit, n int) (visits []visit) {
	load := 0.5 + 2.5*r.Float64() // of what the limit lets through
	few := 1 + limit/100
	for ; n > 0; n -= few {
		visits = append(visits, visit{of(window, float64(few)/(load*float64(limit))), min(n, few)})
	}
	return visits
}

func poisson(r *rand.Rand, window time.Duration, limit, n int) []visit {
	visits := steady(r, window, limit, n)
	for i := range visits {
		visits[i].gap = of(visits[i].gap, r.ExpFloat64())
	}
	return visits
}

func bursts(r *rand.Rand, window time.Duration, limit, n int) (visits []visit) {
	for n > 0 {
		v := visit{of(window, 1.5*r.Float64()), 1 + r.IntN(2*limit)}
		visits = append(visits, v)
		n -= v.requests
	}
	return visits
}

// edges comes back a moment before, just when, or a moment after what came
// last has left the window.
func edges(r *rand.Rand, window time.Duration, limit, n int) (visits []visit) {
	share := []int{1, 1, 1, 2, 3, 10}[r.IntN(6)]
	for n > 0 {
		gap := (window / time.Duration(share)).Truncate(time.Microsecond) + time.Duration(r.IntN(5)-2)*time.Microsecond
		if r.IntN(4) == 0 {
			gap = time.Duration(r.IntN(3)) * time.Microsecond
		}
		v := visit{gap, max(1, limit/share+r.IntN(3))}
		visits = append(visits, v)
		n -= v.requests
	}
	return visits
}

// lateFlood is what a window that is counted from fixed beginnings falls for:
// all at its end, and all again at the beginning of the next.
func lateFlood(r *rand.Rand, window time.Duration, limit, n int) (visits []visit) {
	for ; n > 0; n -= 3 * limit {
		early := 1 + r.IntN(limit)/10
		visits = append(visits,
			visit{of(window, r.Float64()), early},
			visit{of(window, 0.9+0.1*r.Float64()), max(1, limit-early)},
			visit{of(window, 0.15*r.Float64()), limit},
			visit{of(window, 0.85+0.3*r.Float64()), limit})
	}
	return visits
}

func longGaps(r *rand.Rand, window time.Duration, limit, n int) []visit {
	visits := poisson(r, window, limit, n)
	for range 8 {
		visits[r.IntN(len(visits))].gap = of(time.Second, math.Exp(r.Float64()*math.Log(1e6)))
	}
	return visits
}

func mixed(r *rand.Rand, window time.Duration, limit, n int) (visits []visit) {
	parts := []func(*rand.Rand, time.Duration, int, int) []visit{steady, poisson, bursts, edges, lateFlood, longGaps}
	for range 4 {
		visits = append(visits, parts[r.IntN(len(parts))](r, window, limit, n/4)...)
	}
	return visits
}
