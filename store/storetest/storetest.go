// Package storetest is the suite that every implementation of [store.Store]
// passes, unchanged. A test of the implementation calls [Run].
//
// Beyond what the doc comments of package store say word for word, the suite
// relies on this: an app that sends needs no record in the directory (a Core
// Service may know it); times keep at least whole milliseconds, the rate
// windows whole microseconds; what a call has done is seen by every call that
// begins after it returned; and an event that is received twice under one id is
// there once. It leaves open whether claims and early template fees outlast a
// restart.
package storetest

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// Harness makes stores for the suite.
type Harness struct {
	// Open returns a new, empty store. The suite closes it.
	Open func(*testing.T) *Instance
	// RealTime says that the clock of the stores runs by itself and that
	// Advance waits. The windows are then tested over seconds and not over
	// days, and judged with the time that a call takes as leeway.
	RealTime bool
	// Skip leaves checks out, by their names; nil leaves out none. It is for a clock
	// that runs by itself: what is said of windows holds on a machine with time to spare.
	Skip func(check string) bool
}

// Instance is one store with its data and its clock, which stands still but for
// Advance (see [Harness.RealTime]).
type Instance struct {
	store.Store
	// Reopen opens the same data again, after the store was closed.
	Reopen func() store.Store
	// Now is what the clock of the store shows.
	Now func() time.Time
	// Advance moves the clock of the store forward.
	Advance func(time.Duration)
}

// Run runs the suite, each test on a store of its own. Tests run in parallel.
// The random ones log their seed; STORETEST_SEED in the environment repeats it.
func Run(t *testing.T, h Harness) {
	for _, c := range checks {
		if h.Skip != nil && h.Skip(c.name) {
			continue
		}
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, h.Open(t))
			f.realTime = h.RealTime
			c.run(f)
			f.auditAll()
		})
	}
}

// check is one test of the suite. It gets a [testing.TB] and not a
// [testing.T], so that the suite's own tests can watch it fail.
type check struct {
	name string
	run  func(*fixture)
}

var checks = slices.Concat(
	directoryChecks, grantChecks, admissionChecks, quotaChecks, idempotencyChecks, ledgerChecks,
	inDoubtChecks, lifecycleChecks, raceChecks, randomChecks, windowChecks,
	routeChecks, outboxChecks, claimChecks, attemptChecks, deadLetterChecks,
	statusChecks, templateFeeChecks, earlyFeeChecks, givenUpChecks, randomOutboxChecks,
)

// fixture is what one check works on.
type fixture struct {
	testing.TB
	*Instance
	realTime bool
	closed   bool
	// accounts are those made by [fixture.account]; their books are audited
	// when the check is done.
	accounts []tenant.AccountID
}

func newFixture(t testing.TB, in *Instance) *fixture {
	f := &fixture{TB: t, Instance: in}
	t.Cleanup(func() {
		if !f.closed {
			f.close()
		}
	})
	return f
}

func (f *fixture) close() {
	f.Helper()
	f.closed = true
	if err := f.Close(); err != nil {
		f.Errorf("Close: %v", err)
	}
}

// restart closes the store and opens its data again.
func (f *fixture) restart() {
	f.Helper()
	f.close()
	f.Store = f.Reopen()
	f.closed = false
}

// Rand returns a random source whose seed is logged. STORETEST_SEED in the environment repeats it.
func Rand(t testing.TB) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("STORETEST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("STORETEST_SEED: %v", err)
		}
	}
	t.Logf("to repeat this: STORETEST_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) wantError(call string, err, want error) {
	f.Helper()
	if !errors.Is(err, want) {
		f.Errorf("%s: error %v, want %v", call, err, want)
	}
}

func newAppID() tenant.AppID { return tenant.AppID(tenant.NewID("app")) }

// account creates an account and gives it its first credit, if any.
func (f *fixture) account(available pricing.Micros) tenant.AccountID {
	f.Helper()
	return f.accountIn("USD", available)
}

func (f *fixture) accountIn(currency string, available pricing.Micros) tenant.AccountID {
	f.Helper()
	id := tenant.AccountID(tenant.NewID("acct"))
	f.must(f.CreateAccount(f.Context(), tenant.Account{ID: id, Name: "A", Currency: currency, CreatedAt: f.Now()}))
	f.accounts = append(f.accounts, id)
	if available != 0 {
		f.credit(id, available)
	}
	return id
}

func (f *fixture) credit(account tenant.AccountID, amount pricing.Micros) string {
	f.Helper()
	operation := tenant.NewID("credit")
	_, err := f.Credit(f.Context(), account, amount, operation)
	f.must(err)
	return operation
}

// fee is what a hold holds where the amount does not matter.
const fee pricing.Micros = 1_000

// roomy are limits that a check does not reach.
var roomy = tenant.RateLimit{PerSecond: 5_000, PerMinute: 5_000}

// ask is an admission; a hold gets a new id and holds [fee].
func ask(mode store.Mode, app tenant.AppID, account tenant.AccountID, limits tenant.RateLimit) store.Admission {
	a := store.Admission{Mode: mode, App: app, Account: account, Limits: limits}
	if mode == store.Hold {
		a.Fee, a.HoldID = fee, store.NewHoldID()
	}
	return a
}

func (f *fixture) admit(a store.Admission) store.Decision {
	f.Helper()
	d, err := f.Admit(f.Context(), a)
	f.must(err)
	return d
}

func (f *fixture) wantVerdict(a store.Admission, want store.Verdict) store.Decision {
	f.Helper()
	d := f.admit(a)
	if d.Verdict != want {
		f.Fatalf("Admit(mode %d, limits %v): %s, want %s", a.Mode, a.Limits, verdictName(d.Verdict), verdictName(want))
	}
	return d
}

// hold makes a hold of [fee] and returns its id.
func (f *fixture) hold(account tenant.AccountID) store.HoldID {
	f.Helper()
	a := ask(store.Hold, newAppID(), account, roomy)
	f.wantVerdict(a, store.Admitted)
	return a.HoldID
}

func (f *fixture) balance(account tenant.AccountID) store.Balance {
	f.Helper()
	b, err := f.Balance(f.Context(), account)
	f.must(err)
	return b
}

func (f *fixture) wantBalance(account tenant.AccountID, available, held, captured pricing.Micros) {
	f.Helper()
	want := store.Balance{Available: available, Held: held, Captured: captured}
	if got := f.balance(account); got != want {
		f.Errorf("balance %+v, want %+v", got, want)
	}
}

func (f *fixture) ledger(account tenant.AccountID, since time.Time) []store.Entry {
	f.Helper()
	var entries []store.Entry
	for e, err := range f.Ledger(context.WithoutCancel(f.Context()), account, since) {
		f.must(err)
		entries = append(entries, e)
	}
	return entries
}

func verdictName(v store.Verdict) string {
	return [...]string{"Admitted", "OverSecond", "OverMinute", "NoAccount", "NoBalance"}[v]
}
