package storetest

import (
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

var inDoubtChecks = []check{
	{"holds in doubt are settled as told", inDoubtSettles},
	{"only holds made before are in doubt", inDoubtBefore},
	{"holds with an outcome are not in doubt", inDoubtLeavesSettled},
	{"many holds can be in doubt", inDoubtMany},
}

func (f *fixture) inDoubt(before time.Time, outcome store.Outcome, want int) {
	f.Helper()
	n, err := f.InDoubt(f.Context(), before, outcome)
	f.must(err)
	if n != want {
		f.Errorf("InDoubt settled %d holds, want %d", n, want)
	}
}

// last returns the newest entry of the ledger.
func (f *fixture) last(account tenant.AccountID) store.Entry {
	f.Helper()
	entries := f.ledger(account, time.Time{})
	return entries[len(entries)-1]
}

func inDoubtSettles(f *fixture) {
	for _, tc := range []struct {
		outcome store.Outcome
		kind    store.Kind
		after   store.Balance
	}{
		{store.Captured, store.KindCapture, store.Balance{Available: 2 * fee, Captured: fee}},
		{store.Released, store.KindRelease, store.Balance{Available: 3 * fee}},
	} {
		payer := f.account(3 * fee)
		id := f.hold(payer)
		app := f.last(payer).AppID
		f.Advance(time.Second)
		f.inDoubt(f.Now(), tc.outcome, 1)
		f.wantSame("balance", f.balance(payer), tc.after)
		got := f.last(payer)
		got.Seq, got.At = 0, time.Time{}
		f.wantSame("entry", got, store.Entry{
			ID: id.EntryID(tc.kind), Kind: tc.kind, Amount: fee, Balance: tc.after.Available, AppID: app,
		})
		f.wantUnchanged(payer, "InDoubt again", func() { f.inDoubt(f.Now(), tc.outcome, 0) })
		f.wantUnchanged(payer, "settling after InDoubt", func() {
			same, other := f.Capture(f.Context(), id, "wamid.1"), f.Release(f.Context(), id)
			if tc.outcome == store.Released {
				same, other = other, same
			}
			f.must(same)
			f.wantError("the other outcome after InDoubt", other, store.ErrConflict)
		})
	}
}

func inDoubtBefore(f *fixture) {
	one, other := f.account(9*fee), f.account(9*fee)
	var made []time.Time
	for i := range 6 {
		payer := one
		if i%2 == 1 {
			payer = other
		}
		f.hold(payer)
		made = append(made, f.last(payer).At)
		f.Advance(time.Second)
	}
	f.inDoubt(made[0], store.Captured, 0)
	f.inDoubt(made[0].Add(time.Millisecond), store.Captured, 1)
	f.wantBalance(one, 6*fee, 2*fee, fee)
	f.inDoubt(made[3], store.Released, 2)
	f.wantBalance(one, 7*fee, fee, fee)
	f.wantBalance(other, 7*fee, 2*fee, 0)
	f.restart()
	f.inDoubt(made[3], store.Released, 0)
	f.inDoubt(made[5], store.Captured, 2)
	f.wantBalance(one, 7*fee, 0, 2*fee)
	f.wantBalance(other, 7*fee, fee, fee)
}

func inDoubtLeavesSettled(f *fixture) {
	payer := f.account(9 * fee)
	f.must(f.Capture(f.Context(), f.hold(payer), "wamid.1"))
	f.must(f.Release(f.Context(), f.hold(payer)))
	f.Advance(time.Second)
	f.wantUnchanged(payer, "InDoubt", func() {
		f.inDoubt(f.Now(), store.Released, 0)
		f.inDoubt(f.Now(), store.Captured, 0)
	})
}

func inDoubtMany(f *fixture) {
	const holds = 300
	payer := f.account(holds * fee)
	for range holds {
		f.hold(payer)
	}
	f.Advance(time.Second)
	f.inDoubt(f.Now(), store.Captured, holds)
	f.wantBalance(payer, 0, 0, holds*fee)
}
