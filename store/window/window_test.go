package window

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// arrivals are ways in which admissions come: how long after the last one.
var arrivals = map[string]func() time.Duration{
	"steady":    func() time.Duration { return 10 * time.Millisecond },
	"at random": func() time.Duration { return rand.N(25 * time.Millisecond) },
	"in bursts": func() time.Duration {
		if rand.IntN(50) > 0 {
			return rand.N(100 * time.Microsecond)
		}
		return rand.N(time.Second)
	},
	"rarely": func() time.Duration { return 400*time.Millisecond + rand.N(time.Second) },
}

// A window counts what an exact log counts, and a little more where the limit is high,
// whether the admissions fit into the window itself or not.
func TestAWindowCountsAsAnExactLogDoes(t *testing.T) {
	for name, next := range arrivals {
		for _, limit := range []int{1, 2, 3, 80, 127, 4_800, 100_000} {
			t.Run(fmt.Sprintf("%s, %d a second", name, limit), func(t *testing.T) {
				var w Window
				var log []time.Duration
				for now := time.Duration(0); now < 20*time.Second; now += next() {
					for len(log) > 0 && log[0] <= now-time.Second {
						log = log[1:]
					}
					w.Expire(now, time.Second)
					if over := w.Total - len(log); over < 0 || over > limit/100 || len(w.runs) > maxRuns {
						t.Fatalf("%d are counted of %d, in %d runs", w.Total, len(log), len(w.runs))
					}
					if w.Total < limit {
						w.Add(now, limit)
						log = append(log, now)
						if rand.IntN(10) == 0 {
							w.Undo()
							log = log[:len(log)-1]
						}
					}
				}
			})
		}
	}
}

// A window that was full for once is as small as a new one when it is empty again.
func TestAnEmptyWindowHoldsNoMemory(t *testing.T) {
	var w Window
	for i := range 1_000 {
		w.Add(time.Duration(i), 80)
	}
	if len(w.runs) != maxRuns {
		t.Fatalf("%d runs", len(w.runs))
	}
	w.Expire(2*time.Second, time.Second)
	if w.Total != 0 || cap(w.runs) > fewRuns {
		t.Errorf("%d are counted, and there is room for %d runs", w.Total, cap(w.runs))
	}
}

func TestAFewAdmissionsTakeNoMemoryOfTheirOwn(t *testing.T) {
	ws := new(Windows)
	now := time.Duration(0)
	if n := testing.AllocsPerRun(100, func() {
		now += 2 * time.Minute
		ws.Expire(now)
		for range fewRuns {
			ws.Add(now, 80, 4_800)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
