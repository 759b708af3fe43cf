package sqlite

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestCommitsKeepADistanceThatGrowsWithWhatComes(t *testing.T) {
	const passed = 50 * time.Microsecond // since the last commit was begun
	for name, test := range map[string]struct {
		committed          int // operations of the last commit
		awaited, unawaited int
		later              int // awaited operations that come after 400 µs
		want               time.Duration
	}{
		"what comes alone waits for nothing":                {committed: busyGroup - 1, awaited: 1},
		"many wait for a while":                             {committed: busyGroup, awaited: 1, want: commitInterval - passed},
		"many are not fewer because a crowd waits":          {committed: busyGroup, awaited: crowdGroup, want: commitInterval - passed},
		"enough wait for nothing":                           {committed: crowdGroup, awaited: enoughOperations},
		"behind a crowd, a few wait longer":                 {committed: crowdGroup, awaited: crowdGroup - 1, want: crowdInterval - passed},
		"behind a crowd, another waits as long as many":     {committed: crowdGroup, awaited: crowdGroup, want: commitInterval - passed},
		"behind a crowd, a few wait until there is another": {committed: crowdGroup, awaited: 1, later: crowdGroup - 1, want: 400 * time.Microsecond},
		"a crowd is of those that somebody waits for":       {committed: crowdGroup, awaited: 1, unawaited: crowdGroup, want: crowdInterval - passed},
		"what nobody waits for waits for company":           {committed: crowdGroup, unawaited: 1, want: unawaitedInterval},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &writer{queue: newQueue(), timer: time.NewTimer(0), closing: make(chan struct{}), committed: test.committed}
				w.timer.Stop()
				w.committedAt = time.Now().Add(-passed)
				add := func(n int, after func(error)) {
					for range n {
						w.queue.add(&operation{after: after})
					}
				}
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
