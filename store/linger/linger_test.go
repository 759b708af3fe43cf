package linger_test

import (
	"slices"
	"testing"
	"testing/quick"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store/linger"
)

const least, most = time.Millisecond, 4 * time.Millisecond

// limits are those behind each of n waits, so many of every ten of which end well.
func limits(l linger.Linger, n, well int) (all []time.Duration) {
	for i := range n {
		l.Learn(i*7%10 < well) // evenly mixed
		all = append(all, l.Limit())
	}
	return all
}

func TestItIsLongWhereThoseWaitedForCome(t *testing.T) {
	for well, want := range map[int]time.Duration{10: most, 8: most, 5: least, 0: least} {
		all := limits(linger.New(least, most), 500, well)
		if last := all[len(all)-10:]; !slices.Contains(last, want) {
			t.Errorf("where %d of ten waits end well, the last limits are %v, and never %v", well, last, want)
		}
	}
	l := linger.New(least, most)
	if l.Limit() != least {
		t.Errorf("who has learnt nothing waits for %v", l.Limit())
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
	if all := limits(linger.Linger{}, 100, 8); slices.Max(all) != 0 {
		t.Errorf("it waits for %v", all)
	}
}
