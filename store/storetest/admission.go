package storetest

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

var admissionChecks = []check{
	{"the first check that fails is the verdict", firstFailureIsVerdict},
	{"a refused request changes nothing", refusedChangesNothing},
	{"a check changes nothing", checkChangesNothing},
	{"a count holds nothing", countHoldsNothing},
	{"a hold moves its fee", holdMovesFee},
	{"a balance of half a fee still admits", halfAFeeAdmits},
	{"a fee of zero is held", zeroFeeIsHeld},
	{"a cancelled context changes nothing", cancelledChangesNothing},
	{"an admission given up half-way leaves no hold", givenUpLeavesNoHold},
	{"a repetition given up half-way leaves the hold", givenUpRepetition},
	{"what was given up half-way takes effect once", givenUpTakesEffectOnce},
}

var modes = []store.Mode{store.Check, store.Count, store.Hold}

// small are limits under which every store is exact: 5 % of 19 is less than one.
var small = tenant.RateLimit{PerSecond: 19, PerMinute: 19}

// fill admits n counted requests.
func (f *fixture) fill(app tenant.AppID, account tenant.AccountID, limits tenant.RateLimit, n int) {
	f.Helper()
	for range n {
		f.wantVerdict(ask(store.Count, app, account, limits), store.Admitted)
	}
}

// state is all that an admission can change.
type state struct {
	Balance        store.Balance
	Entries        int
	Second, Minute store.Quota
}

// state looks without touching: the quotas are those that a check is told.
func (f *fixture) state(app tenant.AppID, payer tenant.AccountID) state {
	f.Helper()
	d := f.admit(ask(store.Check, app, payer, small))
	return state{f.balance(payer), len(f.ledger(payer, time.Time{})), d.Second, d.Minute}
}

// A window that is full, and the wallets that can fail behind it.
var refusals = []struct {
	name    string
	limits  tenant.RateLimit // of which three are taken
	account string           // "payer", "poor", "unknown" or ""
	want    store.Verdict
}{
	{"second full", tenant.RateLimit{PerSecond: 3, PerMinute: 9}, "payer", store.OverSecond},
	{"second full, no balance", tenant.RateLimit{PerSecond: 3, PerMinute: 9}, "poor", store.OverSecond},
	{"second full, no account", tenant.RateLimit{PerSecond: 3, PerMinute: 9}, "", store.OverSecond},
	{"minute full", tenant.RateLimit{PerSecond: 9, PerMinute: 3}, "payer", store.OverMinute},
	{"minute full, unknown account", tenant.RateLimit{PerSecond: 9, PerMinute: 3}, "unknown", store.OverMinute},
	{"both full", tenant.RateLimit{PerSecond: 3, PerMinute: 3}, "payer", store.OverMinute},
	{"both full, no balance", tenant.RateLimit{PerSecond: 2, PerMinute: 3}, "poor", store.OverMinute},
	{"no account", tenant.RateLimit{PerSecond: 9, PerMinute: 9}, "", store.NoAccount},
	{"unknown account", tenant.RateLimit{PerSecond: 9, PerMinute: 9}, "unknown", store.NoAccount},
	{"no balance", tenant.RateLimit{PerSecond: 9, PerMinute: 9}, "poor", store.NoBalance},
}

// refusalFixture returns an app that has three requests in its windows, and
// the accounts by the names that [refusals] uses.
func (f *fixture) refusalFixture() (tenant.AppID, map[string]tenant.AccountID) {
	f.Helper()
	app, payer := newAppID(), f.account(50_000)
	f.fill(app, payer, small, 3)
	return app, map[string]tenant.AccountID{"payer": payer, "poor": f.account(0), "unknown": "acct_unknown"}
}

func firstFailureIsVerdict(f *fixture) {
	app, accounts := f.refusalFixture()
	for _, r := range refusals {
		for _, mode := range modes {
			if d := f.admit(ask(mode, app, accounts[r.account], r.limits)); d.Verdict != r.want {
				f.Errorf("%s: mode %d is answered %s, want %s", r.name, mode, verdictName(d.Verdict), verdictName(r.want))
			}
		}
	}
}

func refusedChangesNothing(f *fixture) {
	app, accounts := f.refusalFixture()
	before, poor := f.state(app, accounts["payer"]), f.balance(accounts["poor"])
	for _, r := range refusals {
		for _, mode := range modes {
			a := ask(mode, app, accounts[r.account], r.limits)
			for range 4 {
				f.wantVerdict(a, r.want)
			}
			f.wantSame("state after "+r.name, f.state(app, accounts["payer"]), before)
			if mode == store.Hold {
				f.wantError("Capture of a hold that was refused", f.Capture(f.Context(), a.HoldID, ""), store.ErrNotFound)
			}
		}
	}
	f.wantSame("the other balance", f.balance(accounts["poor"]), poor)
}

func checkChangesNothing(f *fixture) {
	app, payer := newAppID(), f.account(1)
	limits := tenant.RateLimit{PerSecond: 1, PerMinute: 2}
	before := f.state(app, payer)
	for range 5 {
		f.wantVerdict(ask(store.Check, app, payer, limits), store.Admitted)
	}
	f.wantSame("state", f.state(app, payer), before)
}

func countHoldsNothing(f *fixture) {
	app, payer := newAppID(), f.account(1)
	before := f.state(app, payer)
	f.fill(app, payer, small, 3)
	after := before
	after.Second.Remaining -= 3
	after.Minute.Remaining -= 3
	f.wantSame("state", f.state(app, payer), after)
}

func holdMovesFee(f *fixture) {
	app, payer := newAppID(), f.account(5*fee)
	before := f.state(app, payer)
	f.wantVerdict(ask(store.Hold, app, payer, small), store.Admitted)
	f.wantVerdict(ask(store.Hold, app, payer, small), store.Admitted)
	after := before
	after.Balance = store.Balance{Available: 3 * fee, Held: 2 * fee}
	after.Entries += 2
	after.Second.Remaining -= 2
	after.Minute.Remaining -= 2
	f.wantSame("state", f.state(app, payer), after)
}

func halfAFeeAdmits(f *fixture) {
	for _, tc := range []struct {
		available pricing.Micros
		want      store.Verdict
	}{{1, store.Admitted}, {fee / 2, store.Admitted}, {fee, store.Admitted}, {0, store.NoBalance}, {-1, store.NoBalance}} {
		for _, mode := range modes {
			payer := f.account(tc.available)
			f.wantVerdict(ask(mode, newAppID(), payer, roomy), tc.want)
			if mode == store.Hold && tc.want == store.Admitted {
				f.wantBalance(payer, tc.available-fee, fee, 0)
				f.wantVerdict(ask(mode, newAppID(), payer, roomy), store.NoBalance)
			} else {
				f.wantBalance(payer, tc.available, 0, 0)
			}
		}
	}
}

func zeroFeeIsHeld(f *fixture) {
	payer := f.account(1)
	a := ask(store.Hold, newAppID(), payer, roomy)
	a.Fee = 0
	f.wantVerdict(a, store.Admitted)
	f.wantBalance(payer, 1, 0, 0)
	f.must(f.Capture(f.Context(), a.HoldID, "wamid.1"))
	f.wantBalance(payer, 1, 0, 0)
	if n := len(f.ledger(payer, time.Time{})); n != 3 {
		f.Errorf("%d entries, want credit, hold and capture", n)
	}
	free := ask(store.Hold, newAppID(), f.account(0), roomy)
	free.Fee = 0
	f.wantVerdict(free, store.NoBalance)
}

func cancelledChangesNothing(f *fixture) {
	app, payer := newAppID(), f.account(5*fee)
	before := f.state(app, payer)
	cancelled, cancel := context.WithCancel(f.Context())
	cancel()
	late, cancel := context.WithDeadline(f.Context(), time.Now().Add(-time.Second))
	defer cancel()
	for _, mode := range modes {
		_, err := f.Admit(cancelled, ask(mode, app, payer, roomy))
		f.wantError("Admit with a cancelled context", err, context.Canceled)
		_, err = f.Admit(late, ask(mode, app, payer, roomy))
		f.wantError("Admit after its deadline", err, context.DeadlineExceeded)
	}
	f.wantSame("state", f.state(app, payer), before)
	f.restart()
	f.wantBalance(payer, 5*fee, 0, 0)
}

// Whichever way the race between a commit and a client that gives up goes: a
// hold is there, or will be given back soon, unless its Admit said so.
func givenUpLeavesNoHold(f *fixture) {
	payer, app := f.account(1_000*fee), newAppID()
	held := f.giveUp(func(ctx context.Context) bool {
		d, err := f.Admit(ctx, ask(store.Hold, app, payer, roomy))
		return err == nil && d.Verdict == store.Admitted
	})
	want := store.Balance{Available: 1_000*fee - pricing.Micros(held)*fee, Held: pricing.Micros(held) * fee}
	f.eventually("the balance of what was not given up", func() bool { return f.balance(payer) == want })
	f.restart()
	f.wantSame("balance after a restart", f.balance(payer), want)
}

// A hold that one Admit answered for stays, whatever becomes of a repetition.
func givenUpRepetition(f *fixture) {
	const holds = 20
	payer, other, app := f.account(holds*fee), f.account(1_000*fee), newAppID()
	var made []store.Admission
	for range holds {
		a := ask(store.Hold, app, payer, roomy)
		f.wantVerdict(a, store.Admitted)
		made = append(made, a)
	}
	var n atomic.Int64
	f.giveUp(func(ctx context.Context) bool {
		a := ask(store.Hold, app, other, roomy) // which gives the store something to write
		if i := int(n.Add(1)); i%2 == 0 {
			a = made[i%holds]
		}
		_, err := f.Admit(ctx, a)
		return err == nil
	})
	f.restart()
	f.wantBalance(payer, 0, holds*fee, 0)
}

// What was given up may have taken effect; when it is repeated, it has done so
// once.
func givenUpTakesEffectOnce(f *fixture) {
	payer := f.account(0)
	var credits []string
	var mu sync.Mutex
	f.giveUp(func(ctx context.Context) bool {
		operation := tenant.NewID("op")
		mu.Lock()
		credits = append(credits, operation)
		mu.Unlock()
		b, err := f.Credit(ctx, payer, fee, operation)
		return err == nil && b.Available > 0
	})
	for _, operation := range credits {
		_, err := f.Credit(f.Context(), payer, fee, operation)
		f.must(err)
	}
	f.wantBalance(payer, pricing.Micros(len(credits))*fee, 0, 0)

	var holds []store.HoldID
	for range len(credits) {
		holds = append(holds, f.hold(payer))
	}
	left := slices.Clone(holds)
	f.giveUp(func(ctx context.Context) bool {
		mu.Lock()
		id := left[0]
		left = left[1:]
		mu.Unlock()
		return f.Capture(ctx, id, "wamid.1") == nil
	})
	for _, id := range holds {
		f.must(f.Capture(f.Context(), id, "wamid.1"))
	}
	f.wantBalance(payer, 0, 0, pricing.Micros(len(holds))*fee)
}

// giveUp makes 16 calls at a time, whose contexts end at some moment while they
// are under way, 20 times. It returns how many said yes.
func (f *fixture) giveUp(call func(context.Context) bool) (yes int) {
	r := Rand(f)
	for range 20 {
		ctx, cancel := context.WithTimeout(f.Context(), time.Duration(r.IntN(4_000))*time.Microsecond)
		yes += race(16, func() bool { return call(ctx) })
		cancel()
	}
	return yes
}

// eventually waits until what holds is true.
func (f *fixture) eventually(what string, holds func() bool) {
	f.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			f.Fatalf("%s did not come about", what)
		}
	}
}
