package redis

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// Answers that are lost or late, and callers who go at any moment, leave nobody behind who waits or leads.
func TestALaneIsLeftEmptyWhateverIsGivenUp(t *testing.T) {
	t.Parallel()
	b, s, w := onLane(t, short, 200*time.Microsecond)
	l := s.theLane()
	l.maxAlone = 300 * time.Microsecond
	w.decide(func([]byte) fate {
		switch rand.IntN(60) {
		case 0, 1, 2:
			return lostAfter
		case 3:
			return heldUp
		}
		return arrives
	})
	var running sync.WaitGroup
	for g := range 20 {
		running.Go(func() {
			for i := range 20 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+rand.IntN(int(short))))
				if rand.IntN(5) == 0 {
					time.AfterFunc(time.Duration(rand.IntN(1_000_000)), cancel)
				}
				a := b.admission()
				if (g+i)%2 == 0 {
					_, _ = s.Admit(ctx, a)
				} else {
					_ = s.patiently(a.HoldID)
				}
				cancel()
			}
		})
	}
	running.Wait()
	eventually(t, "the lane is empty", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.waiting) == 0 && l.leaders == 0
	})
	w.heal()
	b.served(s)
	noError(t, s.Close())
}
