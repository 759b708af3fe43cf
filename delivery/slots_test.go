package delivery

import (
	"context"
	"testing"
	"testing/synctest"
)

func TestSlotsKeepBothLimits(t *testing.T) {
	ctx := t.Context()
	s := newSlots(5, 3)
	var a, b share
	if n := s.acquire(ctx, &a, 2); n != 2 {
		t.Errorf("asked for 2, got %d", n)
	}
	if n := s.acquire(ctx, &a, 2); n != 1 {
		t.Errorf("of 3 had 2, got %d", n)
	}
	if n := s.acquire(ctx, &b, 3); n != 2 {
		t.Errorf("of 5 had 3 taken, got %d", n)
	}
	done, cancel := context.WithCancel(ctx)
	cancel()
	if n := s.acquire(done, &b, 1); n != 0 {
		t.Errorf("at the end: got %d", n)
	}
}

// acquiring tells what a goroutine has acquired, once it has.
func acquiring(ctx context.Context, s *slots, sh *share) <-chan int {
	got := make(chan int, 1)
	go func() { got <- s.acquire(ctx, sh, 1) }()
	synctest.Wait()
	return got
}

func TestSlotGoesToWhoHasTheFewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := newSlots(4, 4)
		var slow, second, idle, late share
		s.acquire(ctx, &slow, 3)
		s.acquire(ctx, &second, 1)
		slows, seconds, idles, lates := acquiring(ctx, s, &slow), acquiring(ctx, s, &second), acquiring(ctx, s, &idle), acquiring(ctx, s, &late)
		for i, want := range []<-chan int{idles, lates} {
			s.release(&slow, 1)
			synctest.Wait()
			select {
			case <-want:
			default:
				t.Errorf("slot %d went to somebody else", i+1)
			}
		}
		s.release(&second, 1) // who then has none, and waits
		synctest.Wait()
		select {
		case <-seconds:
		default:
			t.Error("what waits did not move up")
		}
		cancel()
		if n := <-slows; n != 0 {
			t.Errorf("at the end: got %d", n)
		}
		s.release(&slow, 1)
		s.release(&second, 1)
		s.release(&idle, 1)
		s.release(&late, 1)
		if s.free != 4 {
			t.Errorf("%d slots are free in the end", s.free)
		}
	})
}

func TestSlotOfOnesOwnIsWaitedForAtTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(10, 2)
		var a share
		s.acquire(t.Context(), &a, 2)
		more := acquiring(t.Context(), s, &a)
		select {
		case <-more:
			t.Fatal("a third slot of two")
		default:
		}
		s.release(&a, 1)
		if n := <-more; n != 1 {
			t.Errorf("got %d", n)
		}
	})
}
