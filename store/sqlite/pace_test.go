package sqlite

import (
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store/linger"
)

func TestACommitWaitsForThoseExpected(t *testing.T) {
	const passed = 50 * time.Microsecond // since the last commit was begun
	for name, test := range map[string]struct {
		last, meanwhile    int // operations of the last group that somebody waited for, and that came before its end
		awaited, unawaited int
		later              int // awaited operations that come after 400 µs
		want               time.Duration
	}{
		"what comes alone waits for nothing":        {last: busyGroup - 1, awaited: 1},
		"as many as the last time wait for nothing": {last: busyGroup, awaited: busyGroup},
		"fewer wait for more":                       {last: busyGroup, awaited: busyGroup - 1, want: minCommitInterval - passed},
		"fewer wait until there are as many":        {last: 12, awaited: 5, later: 7, want: 400 * time.Microsecond},
		"only those count that somebody waits for":  {last: 12, awaited: 5, unawaited: 10, want: minCommitInterval - passed},
		"nearly enough wait for more":               {last: 200, awaited: enoughAwaited - 1, want: minCommitInterval - passed},
		"who came meanwhile waits for the last":     {last: 7, meanwhile: 4, awaited: 1, later: 6, want: 400 * time.Microsecond},
		"as many as came meanwhile are not enough":  {last: 2, meanwhile: 3, awaited: 1, want: minCommitInterval - passed},
		"enough wait for nothing":                   {last: 200, awaited: enoughAwaited},
		"many for which few wait are enough":        {last: 200, awaited: 1, unawaited: enoughOperations},
		"what nobody waits for waits for company":   {last: 12, unawaited: 1, want: unawaitedInterval},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newPaced()
				add := func(n int, after func(error)) {
					for range n {
						w.queue.add(&operation{after: after})
					}
				}
				add(test.last, nil)
				add(1, func(error) {})
				w.queue.take(nil, maxGroup)
				add(test.meanwhile, nil)
				w.queue.expect()
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

// Those who send again as soon as they are answered come back together, if somebody waits for them: longer, if
// need be, than a writer waits that knows nothing of them.
func TestAWriterLearnsForHowLongToWait(t *testing.T) {
	const (
		senders   = 12
		answering = 2500 * time.Microsecond // until the last one of them comes back
		commit    = 400 * time.Microsecond
	)
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			w := newPaced()
			add := func() { w.queue.add(&operation{}) }
			for range senders {
				add()
			}
			var sizes [100]int
			for i := range sizes {
				<-w.queue.filled
				w.pace()
				w.committedAt = time.Now()
				sizes[i] = len(w.queue.take(nil, maxGroup))
				time.Sleep(commit)
				w.queue.expect()
				for range sizes[i] {
					time.AfterFunc(time.Duration(random.Int64N(int64(answering))), add)
				}
			}
			if slices.Min(sizes[len(sizes)/2:]) < senders {
				t.Errorf("groups of %d senders, seed %d: %d", senders, seed, sizes)
			}
		})
	}
}

// newPaced returns as much of a writer as decides when the next commit begins.
func newPaced() *writer {
	w := &writer{queue: newQueue(), linger: linger.New(minCommitInterval, maxCommitInterval), timer: time.NewTimer(0), closing: make(chan struct{})}
	w.timer.Stop()
	return w
}
