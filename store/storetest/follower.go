package storetest

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// RunFollower runs the suite of a store that is a [store.Follower] too, as [Run]
// does.
func RunFollower(t *testing.T, h Harness) {
	for _, c := range followerChecks {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, h.Open(t))
			f.realTime = h.RealTime
			c.run(f)
			f.auditAll()
		})
	}
}

var followerChecks = append([]check{
	{"a total makes an account", totalMakesAccount},
	{"a newer total moves the wallet by the difference", totalMoves},
	{"a total that is not newer changes nothing", oldTotal},
	{"a total in another currency is refused", totalInAnotherCurrency},
	{"a total that does not fit is refused", totalDoesNotFit},
	{"totals of accounts are apart", totalsApart},
	{"credits of the store's own are beside the totals", totalsAndCredits},
	{"a credit cannot have the id of a total", totalIDIsReserved},
	{"racing totals move the wallet once", racingTotals},
	{"totals move while charges are made", totalsAmongCharges},
	{"a follower that is given up or closed says so", followerGivenUp},
}, reportChecks...)

func (f *fixture) follower() store.Follower {
	f.Helper()
	follower, ok := f.Store.(store.Follower)
	if !ok {
		f.Fatalf("%T is no store.Follower", f.Store)
	}
	return follower
}

// total is one in US dollars.
func total(account tenant.AccountID, credited pricing.Micros, version int64) store.Total {
	return store.Total{Account: account, Currency: "USD", Credited: credited, Version: version}
}

func (f *fixture) follow(account tenant.AccountID, credited pricing.Micros, version int64) {
	f.Helper()
	f.must(f.follower().Follow(f.Context(), total(account, credited, version)))
}

// stranger is an account that the store does not know; its books are audited in
// the end, and so it must be known by then.
func (f *fixture) stranger() tenant.AccountID {
	id := tenant.AccountID(tenant.NewID("acct"))
	f.accounts = append(f.accounts, id)
	return id
}

func totalMakesAccount(f *fixture) {
	for _, credited := range []pricing.Micros{5 * fee, 0, -fee} {
		payer := f.stranger()
		before := f.Now()
		f.follow(payer, credited, 7)
		for range 2 { // the second time after a restart
			a, err := f.Account(f.Context(), payer)
			f.must(err)
			if a.CreatedAt.Before(before.Add(-time.Minute)) || a.CreatedAt.After(f.Now().Add(time.Minute)) {
				f.Errorf("created at %v, and now it is %v", a.CreatedAt, f.Now())
			}
			a.CreatedAt = time.Time{}
			f.wantSame("account", a, tenant.Account{ID: payer, Name: string(payer), Currency: "USD"})
			f.wantBalance(payer, credited, 0, 0)
			f.restart()
		}
		verdict := store.NoBalance
		if credited > 0 {
			verdict = store.Admitted
			e := f.last(payer)
			e.Seq, e.At = 0, time.Time{}
			f.wantSame("entry", e, store.Entry{
				ID: total(payer, credited, 7).TotalID(), Kind: store.KindCredit, Amount: credited, Balance: credited,
			})
		}
		f.wantVerdict(ask(store.Hold, newAppID(), payer, roomy), verdict)
	}
	all, err := f.Accounts(f.Context())
	f.must(err)
	var ids []tenant.AccountID
	for _, a := range all {
		ids = append(ids, a.ID)
	}
	f.wantSame("accounts", ids, f.accounts)
	f.wantError("CreateAccount of one that was followed", f.CreateAccount(f.Context(), all[0]), store.ErrExists)
}

func totalMoves(f *fixture) {
	payer := f.account(0)
	f.wantVerdict(ask(store.Hold, newAppID(), payer, roomy), store.NoBalance)
	f.follow(payer, 3*fee, 1)
	f.wantVerdict(ask(store.Hold, newAppID(), payer, roomy), store.Admitted)
	for _, step := range []struct {
		credited pricing.Micros
		version  int64
		moved    pricing.Micros
	}{{10 * fee, 2, 7 * fee}, {4 * fee, 9, -6 * fee}, {-2 * fee, 10, -6 * fee}, {5 * fee, 1 << 50, 7 * fee}} {
		f.follow(payer, step.credited, step.version)
		e := f.last(payer)
		want := store.Entry{
			Seq: e.Seq, At: e.At, ID: total(payer, 0, step.version).TotalID(), Kind: store.KindCredit,
			Amount: step.moved, Balance: step.credited - fee,
		}
		f.wantSame("entry", e, want)
		f.wantBalance(payer, step.credited-fee, fee, 0)
		f.restart()
	}
	f.follow(payer, 5*fee, 1<<50+1) // the same total under a newer version
	f.wantBalance(payer, 4*fee, fee, 0)
	f.follow(payer, 6*fee, 1<<50+2)
	f.wantBalance(payer, 5*fee, fee, 0)
}

func oldTotal(f *fixture) {
	payer := f.stranger()
	f.follow(payer, 5*fee, 5)
	f.follow(payer, 6*fee, 8)
	f.hold(payer)
	for range 2 { // the second time after a restart
		f.wantUnchanged(payer, "a total that is not newer", func() {
			for _, old := range []store.Total{total(payer, 6*fee, 8), total(payer, 9*fee, 8), total(payer, 9*fee, 7), total(payer, 5*fee, 5), total(payer, 0, 1)} {
				f.must(f.follower().Follow(f.Context(), old))
			}
		})
		f.restart()
	}
	f.follow(payer, 7*fee, 9)
	f.wantBalance(payer, 6*fee, fee, 0)
}

func totalInAnotherCurrency(f *fixture) {
	payer := f.accountIn("EUR", fee)
	f.wantUnchanged(payer, "a total in another currency", func() {
		f.wantError("Follow", f.follower().Follow(f.Context(), total(payer, 5*fee, 3)), store.ErrConflict)
	})
	right := total(payer, 5*fee, 3) // the version was not used up
	right.Currency = "EUR"
	f.must(f.follower().Follow(f.Context(), right))
	f.wantBalance(payer, 6*fee, 0, 0)
	f.wantUnchanged(payer, "a newer total in another currency", func() {
		f.wantError("Follow", f.follower().Follow(f.Context(), total(payer, 9*fee, 4)), store.ErrConflict)
	})
}

func totalDoesNotFit(f *fixture) {
	refused := func(account tenant.AccountID, credited pricing.Micros, version int64) {
		f.Helper()
		f.wantUnchanged(account, "a total that does not fit", func() {
			f.wantError("Follow", f.follower().Follow(f.Context(), total(account, credited, version)), pricing.ErrOverflow)
		})
	}
	rich := f.account(math.MaxInt64)
	refused(rich, 1, 1)
	f.hold(rich)
	refused(rich, 1, 1) // it would fit what is available, but then the hold could not be given back
	f.follow(rich, 0, 1)
	f.follow(rich, -fee, 2)
	f.wantBalance(rich, math.MaxInt64-2*fee, fee, 0)

	highest := f.stranger()
	f.follow(highest, math.MaxInt64, 1)
	f.credit(highest, -fee)
	refused(highest, math.MinInt64, 2) // the difference does not fit, though what is left of it would
	refused(highest, -2, 2)
	f.follow(highest, -1, 2)
	f.wantBalance(highest, -1-fee, 0, 0)

	lowest := f.stranger()
	f.follow(lowest, math.MinInt64, 1)
	refused(lowest, 0, 2)
	f.follow(lowest, -1, 2)
	f.wantBalance(lowest, -1, 0, 0)
	f.follow(lowest, math.MaxInt64-1, 3)
	f.wantBalance(lowest, math.MaxInt64-1, 0, 0)
}

func totalsApart(f *fixture) {
	one, other := f.stranger(), f.account(fee)
	f.follow(one, 5*fee, 1)
	f.follow(other, 7*fee, 1)
	f.follow(one, 6*fee, 2)
	f.wantBalance(one, 6*fee, 0, 0)
	f.wantBalance(other, 8*fee, 0, 0)
}

func totalsAndCredits(f *fixture) {
	payer := f.stranger()
	f.follow(payer, 5*fee, 1)
	f.credit(payer, 3*fee)
	f.follow(payer, 4*fee, 2)
	f.credit(payer, -fee)
	f.restart()
	f.follow(payer, 6*fee, 3)
	f.wantBalance(payer, 8*fee, 0, 0)
}

func totalIDIsReserved(f *fixture) {
	payer := f.account(fee)
	next := total(payer, 5*fee, 1)
	refuse := func() {
		f.Helper()
		f.wantUnchanged(payer, "a credit with the id of a total", func() {
			_, err := f.Credit(f.Context(), payer, 5*fee, next.TotalID())
			f.wantError("Credit", err, store.ErrConflict)
		})
	}
	refuse()
	f.must(f.follower().Follow(f.Context(), next))
	refuse()
	f.wantBalance(payer, 6*fee, 0, 0)
}

// Each of 32 gateways reads all versions, in an order of its own.
func racingTotals(f *fixture) {
	const versions = 12
	follower := f.follower()
	seed := Rand(f).Uint64()
	for range f.rounds(20) {
		payer := f.stranger()
		credited := func(version int) pricing.Micros { return fee * pricing.Micros(version*7%13-3) }
		var turn atomic.Uint64
		race(32, func() bool {
			for _, i := range rand.New(rand.NewPCG(seed, turn.Add(1))).Perm(versions) {
				version := i + 1
				if err := follower.Follow(f.Context(), total(payer, credited(version), int64(version))); err != nil {
					f.Errorf("Follow: %v", err)
				}
			}
			return true
		})
		seed++
		f.wantBalance(payer, credited(versions), 0, 0)
	}
}

func totalsAmongCharges(f *fixture) {
	payer, follower := f.stranger(), f.follower()
	steps := int64(f.rounds(200))
	f.follow(payer, 10*fee, 1)
	var wg sync.WaitGroup
	var captured atomic.Int64
	for range 4 {
		wg.Go(func() {
			for range steps {
				a := ask(store.Hold, newAppID(), payer, roomy)
				d, err := f.Admit(f.Context(), a)
				if err == nil && d.Verdict == store.Admitted {
					err = f.Capture(f.Context(), a.HoldID, newMessageID())
					captured.Add(1)
				}
				if err != nil {
					f.Error(err)
				}
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			for version := int64(2); version <= steps; version++ {
				if err := follower.Follow(f.Context(), total(payer, pricing.Micros(version)*10*fee, version)); err != nil {
					f.Error(err)
				}
			}
		})
	}
	wg.Wait()
	charged := pricing.Micros(captured.Load()) * fee
	f.wantBalance(payer, pricing.Micros(max(1, steps))*10*fee-charged, 0, charged)
}

func followerGivenUp(f *fixture) {
	payer := f.account(fee)
	follower := f.follower()
	calls := map[string]func(context.Context) error{
		"Follow":     func(ctx context.Context) error { return follower.Follow(ctx, total(payer, 5*fee, 1)) },
		"Unreported": func(ctx context.Context) error { _, err := follower.Unreported(ctx, 10); return err },
	}
	ended, cancel := context.WithCancel(f.Context())
	cancel()
	for name, call := range calls {
		f.wantError(name+" with a context that has ended", call(ended), context.Canceled)
	}
	f.wantBalance(payer, fee, 0, 0)
	report := f.unreported(10)
	calls["Reported"] = func(ctx context.Context) error { return follower.Reported(ctx, report) }
	f.close()
	for name, call := range calls {
		if err := call(context.WithoutCancel(f.Context())); !errors.Is(err, store.ErrClosed) {
			f.Errorf("%s after Close: %v", name, err)
		}
	}
	f.Store = f.Reopen()
	f.closed = false
	f.wantBalance(payer, fee, 0, 0)
	f.wantReported(f.drain(10))
}

// wantReported compares what was reported with the ledgers of all accounts, which
// it is all of, but for holds and releases.
func (f *fixture) wantReported(got []store.ReportedEntry) {
	f.Helper()
	byAccount := make(map[tenant.AccountID][]store.Entry)
	for _, e := range got {
		byAccount[e.Account] = append(byAccount[e.Account], e.Entry)
	}
	want := make(map[tenant.AccountID][]store.Entry)
	for _, account := range f.accounts {
		for _, e := range f.ledger(account, time.Time{}) {
			if e.Kind != store.KindHold && e.Kind != store.KindRelease {
				want[account] = append(want[account], e)
			}
		}
	}
	if diff := cmp.Diff(want, byAccount); diff != "" {
		f.Errorf("reported (-want +got):\n%s", diff)
	}
}
