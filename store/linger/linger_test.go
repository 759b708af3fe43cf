package linger_test

import (
	"testing"
	"testing/quick"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store/linger"
)

const least, most = time.Millisecond, 4 * time.Millisecond

// after is what is left of a limit behind n waits, so many of every ten of which end well.
func after(l *linger.Linger, n, well int) time.Duration {
	for i := range n {
		l.Learn(i*7%10 < well) // evenly mixed
	}
	return l.Limit()
}

func TestItIsLongWhereThoseWaitedForCome(t *testing.T) {
	l := linger.New(least, most)
	for _, step := range []struct {
		waits, well int
		want        time.Duration
	}{{0, 0, least}, {30, 10, most}, {30, 0, least}, {500, 9, most}, {500, 5, least}} {
		got := after(&l, step.waits, step.well)
		if step.well == 9 {
			l.Learn(true) // the last one may have ended badly
			l.Learn(true)
			got = l.Limit()
		}
		if step.well == 5 {
			l.Learn(false)
			l.Learn(false)
			got = l.Limit()
		}
		if got != step.want {
			t.Errorf("after %d waits of which %d of ten ended well: %v, want %v", step.waits, step.well, got, step.want)
		}
	}
}

func TestItStaysWithinItsBounds(t *testing.T) {
	inBounds := func(waits []bool) bool {
		l := linger.New(least, most)
		for _, came := range waits {
			before := l.Limit()
			l.Learn(came)
			if now := l.Limit(); now < least || now > most || came && now < before || !came && now > before {
				return false
			}
		}
		return true
	}
	if err := quick.Check(inBounds, nil); err != nil {
		t.Error(err)
	}
}

func TestTheZeroValueNeverWaits(t *testing.T) {
	var l linger.Linger
	if after(&l, 100, 8) != 0 {
		t.Errorf("it waits for %v", l.Limit())
	}
}
