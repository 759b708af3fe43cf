package sqlite

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestACommitWaitsForAsManyAsLately(t *testing.T) {
	const passed = 50 * time.Microsecond // since the last commit was begun
	for name, test := range map[string]struct {
		before, last       int // operations of the last two groups that somebody waited for
		awaited, unawaited int
		later              int // awaited operations that come after 400 µs
		want               time.Duration
	}{
		"what comes alone waits for nothing":        {last: busyGroup - 1, awaited: 1},
		"as many as the last time wait for nothing": {last: busyGroup, awaited: busyGroup},
		"fewer wait for more":                       {last: busyGroup, awaited: busyGroup - 1, want: commitInterval - passed},
		"fewer wait until there are as many":        {last: 12, awaited: 5, later: 7, want: 400 * time.Microsecond},
		"only those count that somebody waits for":  {last: 12, awaited: 5, unawaited: 10, want: commitInterval - passed},
		"nearly enough wait for more":               {last: 200, awaited: enoughAwaited - 1, want: commitInterval - passed},
		"the larger of the last two groups counts":  {before: 12, last: 5, awaited: 5, later: 7, want: 400 * time.Microsecond},
		"one that was not large may have been late": {before: busyGroup, last: 1, awaited: 1, want: commitInterval - passed},
		"enough wait for nothing":                   {last: 200, awaited: enoughAwaited},
		"many for which few wait are enough":        {last: 200, awaited: 1, unawaited: enoughOperations},
		"what nobody waits for waits for company":   {last: 12, unawaited: 1, want: unawaitedInterval},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &writer{queue: newQueue(), timer: time.NewTimer(0), closing: make(chan struct{})}
				w.timer.Stop()
				add := func(n int, after func(error)) {
					for range n {
						w.queue.add(&operation{after: after})
					}
				}
				for _, awaited := range []int{test.before, test.last} {
					add(awaited, nil)
					add(1, func(error) {})
					w.queue.take(nil, maxGroup)
				}
				w.committedAt = time.Now().Add(-passed)
				add(test.awaited, nil)
				add(test.unawaited, func(error) {})
				time.AfterFunc(400*time.Microsecond, func() { add(test.later, nil) })
				began := time.Now()
				w.pace()
				if waited := time.Since(began); waited != test.want {
					t.Errorf("waited for %v, want %v", waited, test.want)
				}
			})
		})
	}
}
