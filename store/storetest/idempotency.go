package storetest

import (
	"math"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

var idempotencyChecks = []check{
	{"a repeated hold is admitted and changes nothing", repeatedHold},
	{"a repeated capture changes nothing", repeatedCapture},
	{"a repeated release changes nothing", repeatedRelease},
	{"a hold has one outcome", oneOutcome},
	{"a hold that was never made has no outcome", unknownHold},
	{"a repeated credit is given once", repeatedCredit},
	{"an operation id stands for one credit", conflictingCredit},
	{"a correction can make the balance negative", correction},
	{"a credit that does not fit is refused", overflow},
}

// wantUnchanged tells whether what is done leaves balance and ledger alone.
func (f *fixture) wantUnchanged(account tenant.AccountID, what string, do func()) {
	f.Helper()
	balance, entries := f.balance(account), f.ledger(account, time.Time{})
	do()
	f.wantSame("balance after "+what, f.balance(account), balance)
	f.wantSame("ledger after "+what, f.ledger(account, time.Time{}), entries)
}

func repeatedHold(f *fixture) {
	app, payer := newAppID(), f.account(fee)
	limits := tenant.RateLimit{PerSecond: 1, PerMinute: 1}
	a := ask(store.Hold, app, payer, limits)
	f.wantVerdict(a, store.Admitted)
	f.wantVerdict(ask(store.Hold, app, payer, limits), store.OverMinute)
	f.wantVerdict(ask(store.Hold, newAppID(), payer, limits), store.NoBalance)

	repeat := func(what string) {
		f.Helper()
		before := f.state(app, payer)
		for range 3 {
			f.wantVerdict(a, store.Admitted)
		}
		f.wantSame("state after a repeated hold "+what, f.state(app, payer), before)
	}
	repeat("with a full window and nothing available")
	f.restart()
	repeat("after a restart")
	f.must(f.Capture(f.Context(), a.HoldID, "wamid.1"))
	repeat("that was captured")
	f.restart()
	repeat("that was captured before a restart")
	f.Advance(time.Minute)
	repeat("with an empty window")
}

func repeatedCapture(f *fixture) {
	payer := f.account(3 * fee)
	id := f.hold(payer)
	f.must(f.Capture(f.Context(), id, "wamid.1"))
	f.wantBalance(payer, 2*fee, 0, fee)
	for range 2 { // the second time after a restart
		f.wantUnchanged(payer, "a repeated capture", func() {
			f.must(f.Capture(f.Context(), id, "wamid.1"))
			f.must(f.Capture(f.Context(), id, "wamid.2"))
			f.must(f.Capture(f.Context(), id, ""))
		})
		f.restart()
	}
}

func repeatedRelease(f *fixture) {
	payer := f.account(3 * fee)
	id := f.hold(payer)
	f.must(f.Release(f.Context(), id))
	f.wantBalance(payer, 3*fee, 0, 0)
	for range 2 { // the second time after a restart
		f.wantUnchanged(payer, "a repeated release", func() {
			f.must(f.Release(f.Context(), id))
			f.must(f.Release(f.Context(), id))
		})
		f.restart()
	}
}

func oneOutcome(f *fixture) {
	payer := f.account(3 * fee)
	captured, released := f.hold(payer), f.hold(payer)
	f.must(f.Capture(f.Context(), captured, "wamid.1"))
	f.must(f.Release(f.Context(), released))
	for range 2 { // the second time after a restart
		f.wantUnchanged(payer, "the other outcome", func() {
			f.wantError("Release after Capture", f.Release(f.Context(), captured), store.ErrConflict)
			f.wantError("Capture after Release", f.Capture(f.Context(), released, "wamid.2"), store.ErrConflict)
		})
		f.restart()
	}
}

func unknownHold(f *fixture) {
	payer := f.account(3 * fee)
	operation := f.credit(payer, fee)
	open, captured := f.hold(payer), f.hold(payer)
	f.must(f.Capture(f.Context(), captured, "wamid.1"))
	f.wantUnchanged(payer, "settling what is no hold", func() {
		for _, id := range []store.HoldID{
			store.NewHoldID(), "", "x", "hold", "hold_", open + "0", open[:len(open)-1], "'; --",
			store.HoldID(operation), store.HoldID(captured.EntryID(store.KindCapture)),
		} {
			f.wantError("Capture", f.Capture(f.Context(), id, "wamid.2"), store.ErrNotFound)
			f.wantError("Release", f.Release(f.Context(), id), store.ErrNotFound)
		}
	})
}

func repeatedCredit(f *fixture) {
	ctx := f.Context()
	payer := f.account(0)
	got, err := f.Credit(ctx, payer, 5*fee, "op")
	f.must(err)
	f.wantSame("balance", got, store.Balance{Available: 5 * fee})
	f.hold(payer)
	for range 2 { // the second time after a restart
		f.wantUnchanged(payer, "a repeated credit", func() {
			got, err = f.Credit(ctx, payer, 5*fee, "op")
			f.must(err)
			f.wantSame("balance", got, store.Balance{Available: 4 * fee, Held: fee})
		})
		f.restart()
	}
}

func conflictingCredit(f *fixture) {
	ctx := f.Context()
	payer, other := f.account(0), f.account(0)
	_, err := f.Credit(ctx, payer, 5*fee, "op")
	f.must(err)
	open, captured, released := f.hold(payer), f.hold(payer), f.hold(payer)
	f.must(f.Capture(ctx, captured, "wamid.1"))
	f.must(f.Release(ctx, released))
	for range 2 { // the second time after a restart
		for _, tc := range []struct {
			what      string
			account   tenant.AccountID
			amount    pricing.Micros
			operation string
		}{
			{"another amount", payer, 4 * fee, "op"},
			{"another account", other, 5 * fee, "op"},
			{"the id of a hold", payer, fee, string(open)},
			{"the id of a hold of another account", other, fee, string(open)},
			{"the id of a captured hold", payer, fee, string(captured)},
			{"the id of a capture", payer, fee, captured.EntryID(store.KindCapture)},
			{"the id of a release", payer, fee, released.EntryID(store.KindRelease)},
		} {
			f.wantUnchanged(payer, "a credit with "+tc.what, func() {
				_, err := f.Credit(ctx, tc.account, tc.amount, tc.operation)
				f.wantError("Credit with "+tc.what, err, store.ErrConflict)
			})
		}
		f.wantBalance(other, 0, 0, 0)
		f.restart()
	}
}

func correction(f *fixture) {
	payer := f.account(3 * fee)
	got, err := f.Credit(f.Context(), payer, -5*fee, "op")
	f.must(err)
	f.wantSame("balance", got, store.Balance{Available: -2 * fee})
	f.wantVerdict(ask(store.Hold, newAppID(), payer, roomy), store.NoBalance)
	f.credit(payer, 2*fee)
	f.wantVerdict(ask(store.Hold, newAppID(), payer, roomy), store.NoBalance)
	f.credit(payer, 1)
	f.wantVerdict(ask(store.Hold, newAppID(), payer, roomy), store.Admitted)
}

func overflow(f *fixture) {
	ctx := f.Context()
	refused := func(account tenant.AccountID, amount pricing.Micros) {
		f.Helper()
		operation := tenant.NewID("credit")
		f.wantUnchanged(account, "a credit that does not fit", func() {
			_, err := f.Credit(ctx, account, amount, operation)
			f.wantError("Credit", err, pricing.ErrOverflow)
		})
		// The id was not used up.
		_, err := f.Credit(ctx, account, 0, operation)
		f.must(err)
	}
	rich := f.account(math.MaxInt64)
	refused(rich, 1)
	refused(rich, math.MaxInt64)
	id := f.hold(rich)
	// It would fit what is available, but then the hold could not be given back.
	refused(rich, 1)
	f.must(f.Release(ctx, id))
	f.wantBalance(rich, math.MaxInt64, 0, 0)

	poor := f.account(math.MinInt64)
	refused(poor, -1)
	refused(poor, math.MinInt64)
	f.credit(poor, math.MaxInt64)
	f.wantBalance(poor, -1, 0, 0)
}
