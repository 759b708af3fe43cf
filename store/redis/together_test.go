package redis

import (
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// A fee that Lua can count with and one that it cannot come to the same, in a run with others.
func TestFeesOfAnySizeAreExactInOneRun(t *testing.T) {
	t.Parallel()
	b, s, w := onLane(t, patience, time.Hour)
	const large pricing.Micros = 999_999_999_999 // the largest of twelve digits
	rich := b.neighbour(true, 90*large)
	_, err := s.home(t.Context(), rich.admission())
	noError(t, err)
	var want pricing.Micros
	var holds, captures []func()
	for i := range pricing.Micros(9) {
		a := rich.admission()
		a.Fee = large + i%3 - 1
		want += a.Fee
		holds = append(holds, func() {
			d, err := s.Admit(t.Context(), a)
			if succeeds(t, err); d.Verdict != store.Admitted {
				t.Errorf("a hold of %d is answered %+v", a.Fee, d)
			}
		})
		captures = append(captures, func() { succeeds(t, s.Capture(t.Context(), a.HoldID, messageOf(a.HoldID))) })
	}
	b.together(s, w, holds)
	if balance, err := rich.Balance(t.Context(), rich.account); err != nil || balance.Held != want || balance.Available != 90*large-want {
		t.Errorf("%d was to be held, and the balance is %+v, %v", want, balance, err)
	}
	b.together(s, w, captures)
	if balance, err := rich.Balance(t.Context(), rich.account); err != nil || balance.Held != 0 || balance.Captured != want {
		t.Errorf("%d was to be captured, and the balance is %+v, %v", want, balance, err)
	}
	rich.wantHolds(9, 0, 0)
}

// What one run admits counts in the next ones, each of it.
func TestWindowsCountAllThatOneRunAdmits(t *testing.T) {
	t.Parallel()
	b, s, w := onLane(t, patience, time.Hour)
	const first, limit = 5, 7
	admit := func(want store.Verdict) {
		a := b.admission()
		a.Limits = tenant.RateLimit{PerSecond: 2 * limit, PerMinute: limit}
		d, err := s.Admit(t.Context(), a)
		if succeeds(t, err); d.Verdict != want {
			t.Errorf("an admission is answered %+v, want %v", d, want)
		}
	}
	windows := b.neighbour(true, 100*testFee)
	b.app = windows.app // no window of it is used yet
	_, err := s.home(t.Context(), b.admission())
	noError(t, err)
	var steps []func()
	for range first {
		steps = append(steps, func() { admit(store.Admitted) })
	}
	b.together(s, w, steps)
	for range limit - first {
		admit(store.Admitted)
	}
	admit(store.OverMinute)
}

// A template fee that came before the captures of one run is charged with its own, and with no other.
func TestAnEarlyFeeIsChargedWithItsCaptureInOneRun(t *testing.T) {
	t.Parallel()
	b, s, w := onLane(t, patience, time.Hour)
	ids := []store.HoldID{b.hold(s), b.hold(s), b.hold(s)}
	early := delivered(messageOf(ids[1]), "")
	results, err := s.Receive(t.Context(), nil, early)
	noError(t, err)
	if results[0].Fee != store.FeeUnknownMessage {
		t.Errorf("the fee of a message that nobody has sent is answered %+v", results)
	}
	var steps []func()
	for _, id := range ids {
		steps = append(steps, func() { succeeds(t, s.Capture(t.Context(), id, messageOf(id))) })
	}
	b.together(s, w, steps)
	for i, want := range []store.FeeResult{store.FeeCharged, store.FeeRepeated, store.FeeCharged} {
		results, err := s.Receive(t.Context(), nil, delivered(messageOf(ids[i]), ids[i]))
		if noError(t, err); results[0].Fee != want {
			t.Errorf("the fee of message %d is answered %+v, want %v", i, results, want)
		}
	}
	b.wantHolds(len(ids)+1, 0, 0)
}

// Lua has room for all that may be sent together, and each of them has its own number in the ledger, which are ahead of the clock here, and so
// follow one another.
func TestAsManyAsAreSentTogetherAreOneBundle(t *testing.T) {
	t.Parallel()
	b, s, w := onLane(t, patience, time.Hour)
	payer := b.neighbour(true, 2*maxTogether*testFee)
	_, err := s.home(t.Context(), payer.admission())
	noError(t, err)
	s.numberAhead(t, payer.account)
	var holds, captures []func()
	for range maxTogether {
		a := payer.admission()
		a.Limits = tenant.RateLimit{PerSecond: 10 * maxTogether, PerMinute: 10 * maxTogether}
		holds = append(holds, func() {
			d, err := s.Admit(t.Context(), a)
			if succeeds(t, err); d.Verdict != store.Admitted {
				t.Errorf("a hold is answered %+v", d)
			}
		})
		captures = append(captures, func() { succeeds(t, s.Capture(t.Context(), a.HoldID, messageOf(a.HoldID))) })
	}
	b.together(s, w, holds)
	b.together(s, w, captures)
	payer.wantHolds(maxTogether, 0, 0)
	parts, err := s.client.XLen(t.Context(), s.base(placeOf(payer.account))+"ledger:"+string(payer.account)).Result()
	if noError(t, err); parts != 3 { // the credit, the holds, the captures
		t.Errorf("there are %d entries of the stream", parts)
	}
	last := int64(0)
	for e, err := range s.Ledger(t.Context(), payer.account, time.Time{}) {
		if noError(t, err); e.Seq <= last {
			t.Errorf("%s has the number %d behind %d", e.ID, e.Seq, last)
		}
		last = e.Seq
	}
}

// The template fee of a message that is known stays known when another hold is captured for it, in a run with others.
func TestACaptureLeavesTheFeeOfAMessageThatIsKnown(t *testing.T) {
	t.Parallel()
	b, s, w := onLane(t, patience, time.Hour)
	first, again, other := b.hold(s), b.hold(s), b.hold(s)
	noError(t, s.Capture(t.Context(), first, messageOf(first)))
	fee := func(want store.FeeResult) {
		t.Helper()
		results, err := s.Receive(t.Context(), nil, delivered(messageOf(first), first))
		if noError(t, err); results[0].Fee != want {
			t.Errorf("the fee of the message is answered %+v, want %v", results, want)
		}
	}
	fee(store.FeeCharged)
	b.together(s, w, []func(){
		func() { succeeds(t, s.Capture(t.Context(), again, messageOf(first))) },
		func() { succeeds(t, s.Capture(t.Context(), other, messageOf(other))) },
	})
	fee(store.FeeRepeated)
	b.wantHolds(4, 0, 0)
}
