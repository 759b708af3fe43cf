package redis

import (
	"errors"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// While Redis is down for an hour, what was never sent must not fill the memory, nor
// Redis afterwards.
func TestNothingIsGivenBackThatWasNeverSent(t *testing.T) {
	t.Parallel()
	o := testOptions(t, "single", "", redistest.Start(t).URL())
	b := newBooks(t, o)
	var w wire
	w.refuses.Store(true)
	o.Timeout, o.Serving = short, false
	s := open(t, w.under(o))
	var refused []store.HoldID
	for range 50 {
		a := b.admission()
		if d, err := s.Admit(t.Context(), a); err == nil || !d.ByShare {
			t.Errorf("an admission without redis is answered %+v, %v", d, err)
		}
		refused = append(refused, a.HoldID)
	}
	w.heal()
	b.served(s)
	noError(t, s.Close()) // which gives back what is left
	for _, id := range refused {
		if state := b.state(id); state != "" {
			t.Fatalf("a hold that was never asked for is %q", state)
		}
	}
	b.wantHolds(1, 0, 0)
}

// The attempt that may have been sent counts, although those after it have found no
// connection.
func TestAHoldThatMayHaveBeenSentIsGivenBack(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for name, row := range map[string]struct {
		fate  fate
		state string
	}{
		"lost before": {lostBefore, "forsaken"},
		"lost after":  {lostAfter, "release"},
	} {
		t.Run(name, func(t *testing.T) {
			o := testOptions(t, "single", "", server.URL())
			b := newBooks(t, o)
			var w wire
			o.Timeout, o.Serving = short, false
			s := open(t, w.under(o))
			b.hold(s) // the app's place and the script are known
			w.decide(func(sent []byte) fate {
				if !admitScript.runs(sent) {
					return arrives
				}
				w.refuses.Store(true)
				return row.fate
			})
			id := b.wantAway(s)
			w.heal()
			s.nothingLeft(t)
			noError(t, s.Close())
			if state := b.state(id); state != row.state {
				t.Errorf("the hold is %q, want %q", state, row.state)
			}
			if st := b.audit(); len(st.Open) != 1 || len(st.Captured) != 0 {
				t.Errorf("the holds are %+v", st)
			}
		})
	}
}

// A hold that was made, and whose first answer was lost, is the caller's: it is not taken
// away for that.
func TestAHoldThatIsMadeAtTheSecondAttemptIsKept(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for name, lost := range map[string]fate{"lost before": lostBefore, "lost after": lostAfter} {
		t.Run(name, func(t *testing.T) {
			o := testOptions(t, "single", "", server.URL())
			b := newBooks(t, o)
			var w wire
			o.Serving = false
			s := open(t, w.under(o))
			b.hold(s)
			attempts := 0
			w.decide(func(sent []byte) fate {
				if !admitScript.runs(sent) {
					return arrives
				}
				if attempts++; attempts > 1 {
					return arrives
				}
				return lost
			})
			id := b.hold(s)
			if attempts != 2 {
				t.Errorf("%d attempts were made", attempts)
			}
			w.heal()
			noError(t, s.Close())
			if st := b.audit(); !st.Open[id] || len(st.Open) != 2 {
				t.Errorf("the holds are %+v", st)
			}
		})
	}
}

// What one account's keys have come to stops nothing of the others', in its own place
// or elsewhere.
func TestASpoiltAccountHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "appendfsync no")
	for _, what := range []string{"ledger", "wallet"} {
		t.Run(what, func(t *testing.T) {
			o := testOptions(t, "single", "", server.URL())
			bad := newBooks(t, o)
			healthy := []*books{bad.neighbour(true, 10*testFee), bad.neighbour(false, 10*testFee)}
			o.Serving = false
			s := open(t, o)
			bad.hold(s)
			for _, b := range healthy {
				b.hold(s)
			}
			repair := spoil(t, server, bad.base(placeOf(bad.account))+what+":"+string(bad.account))
			for i := range 2 {
				n, err := s.InDoubt(t.Context(), time.Now().Add(time.Hour), store.Captured)
				if want := len(healthy) * (1 - i); n != want || !errors.Is(err, errBroken) {
					t.Errorf("%d holds that were in doubt were settled, want %d; error %v", n, want, err)
				}
			}
			for _, b := range healthy {
				if balance, err := b.Balance(t.Context(), b.account); err != nil || balance.Held != 0 || balance.Captured != testFee {
					t.Errorf("a healthy account's balance is %+v, %v", balance, err)
				}
			}
			reported := s.reportAll(t)
			for _, b := range healthy {
				if n := reported[b.account]; n != 2 { // a credit and a capture
					t.Errorf("%d entries of a healthy account were reported", n)
				}
			}
			if n := reported[bad.account]; n != 0 {
				t.Errorf("%d entries of the spoilt account were reported", n)
			}

			repair()
			if n, err := s.InDoubt(t.Context(), time.Now().Add(time.Hour), store.Captured); n != 1 || err != nil {
				t.Errorf("after the repair %d holds were settled, error %v", n, err)
			}
			if reported := s.reportAll(t); len(reported) != 1 || reported[bad.account] != 2 {
				t.Errorf("after the repair %v were reported", reported)
			}
			for _, b := range append(healthy, bad) {
				b.wantHolds(1, 0, 0)
			}
		})
	}
}

func TestAHoldThatCannotBeGivenBackHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "appendfsync no")
	for _, what := range []string{"ledger", "wallet"} {
		t.Run(what, func(t *testing.T) {
			o := testOptions(t, "single", "", server.URL())
			bad := newBooks(t, o)
			healthy, elsewhere := bad.neighbour(true, 10*testFee), bad.neighbour(false, 10*testFee)
			o.Serving = false
			s := open(t, o)
			// s knows nothing of them.
			stuck, free, far := bad.hold(bad.Store), healthy.hold(bad.Store), elsewhere.hold(bad.Store)
			repair := spoil(t, server, bad.base(placeOf(bad.account))+what+":"+string(bad.account))
			s.forsake.add(stuck, placeOf(bad.account))
			s.forsake.add(free, placeOf(healthy.account))
			s.forsake.add(far, placeOf(elsewhere.account))
			eventually(t, "one in another place is given back", func() bool { return elsewhere.state(far) == "release" })
			eventually(t, "the healthy account's hold is given back", func() bool { return healthy.state(free) == "release" })
			if state := bad.state(stuck); state != "open" {
				t.Errorf("the spoilt account's is %q", state)
			}
			repair()
			eventually(t, "the other is given back after the repair", func() bool { return bad.state(stuck) == "release" })
			bad.wantHolds(0, 1, 0)
			healthy.wantHolds(0, 1, 0)
		})
	}
}

// reportAll reports until there is nothing more to report, and counts the entries of each account.
func (s *Store) reportAll(t testing.TB) map[tenant.AccountID]int {
	t.Helper()
	entries := make(map[tenant.AccountID]int)
	for range 10 {
		r, err := s.Unreported(t.Context(), 100)
		noError(t, err)
		for _, e := range r.Entries {
			entries[e.Account]++
		}
		if len(r.Entries) == 0 {
			return entries
		}
		noError(t, s.Reported(t.Context(), r))
	}
	t.Error("there is always more to report")
	return entries
}
