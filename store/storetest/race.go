package storetest

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

var raceChecks = []check{
	{"one fee left admits one of 64 racers", lastFee},
	{"one place left admits one of 64 racers", lastPlace},
	{"one hold id of 64 racers is one hold", oneHoldID},
	{"one of two racing outcomes wins", racingOutcomes},
	{"one credit id of 64 racers is one credit", oneCreditID},
	{"one id of many racers is one record", oneRecord},
	{"two thousand callers at once are all answered", allAreAnswered},
}

const racers = 64

// race starts n calls at the same moment and returns how many said yes.
func race(n int, call func() bool) int {
	var wg sync.WaitGroup
	var yes atomic.Int64
	start := make(chan struct{})
	for range n {
		wg.Go(func() {
			<-start
			if call() {
				yes.Add(1)
			}
		})
	}
	close(start)
	wg.Wait()
	return int(yes.Load())
}

// crowd makes n calls, some at a time, so that a store can write them down
// together.
func crowd(n int, call func(i int)) {
	var next atomic.Int64
	race(min(n, racers), func() bool {
		for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
			call(i)
		}
		return true
	})
}

// admits returns a call for [race] that tells whether an admission passes, and
// complains of any verdict but the one that losers get.
func (f *fixture) admits(loser store.Verdict, a func() store.Admission) func() bool {
	return func() bool {
		d, err := f.Admit(f.Context(), a())
		if err != nil || d.Verdict != store.Admitted && d.Verdict != loser {
			f.Errorf("Admit: %s, %v", verdictName(d.Verdict), err)
		}
		return err == nil && d.Verdict == store.Admitted
	}
}

func (f *fixture) rounds(n int) int {
	if testing.Short() || f.realTime {
		return n / 20
	}
	return n
}

func lastFee(f *fixture) {
	const lanes = 8 // which only make it quicker: each has an account of its own
	var wg sync.WaitGroup
	for range lanes {
		payer := f.account(0)
		wg.Go(func() {
			for round := range f.rounds(1_000) / lanes {
				if _, err := f.Credit(f.Context(), payer, fee, tenant.NewID("op")); err != nil {
					f.Error(err)
					return
				}
				app := newAppID()
				call := f.admits(store.NoBalance, func() store.Admission { return ask(store.Hold, app, payer, roomy) })
				if n := race(racers, call); n != 1 {
					f.Errorf("round %d: %d of %d were admitted with one fee left", round, n, racers)
					return
				}
			}
		})
	}
	wg.Wait()
	for _, payer := range f.accounts {
		if b := f.balance(payer); b.Available != 0 {
			f.Errorf("%d is available after the last round", b.Available)
		}
	}
}

func lastPlace(f *fixture) {
	payer := f.account(racers * fee)
	limits := tenant.RateLimit{PerSecond: 9, PerMinute: 3}
	for round := range f.rounds(100) {
		app := newAppID()
		f.fill(app, payer, limits, 2)
		call := f.admits(store.OverMinute, func() store.Admission { return ask(store.Count, app, payer, limits) })
		if n := race(racers, call); n != 1 {
			f.Fatalf("round %d: %d of %d were admitted with one place left", round, n, racers)
		}
	}
}

func oneHoldID(f *fixture) {
	rounds := f.rounds(40)
	payer := f.account(2 * fee)
	for round := range rounds {
		a := ask(store.Hold, newAppID(), payer, tenant.RateLimit{PerSecond: 1, PerMinute: 1})
		if n := race(racers, f.admits(store.Admitted, func() store.Admission { return a })); n != racers {
			f.Fatalf("round %d: %d of %d repetitions were admitted", round, n, racers)
		}
		f.wantBalance(payer, fee, fee, 0)
		f.must(f.Release(f.Context(), a.HoldID))
	}
}

func racingOutcomes(f *fixture) {
	payer := f.account(fee)
	for round := range f.rounds(40) {
		id := f.hold(payer)
		var turn, captures, releases atomic.Int64
		race(16, func() bool {
			won, err := &releases, error(nil)
			if turn.Add(1)%2 == int64(round%2) {
				won, err = &captures, f.Capture(f.Context(), id, "wamid.1")
			} else {
				err = f.Release(f.Context(), id)
			}
			if err == nil {
				won.Add(1)
			} else if !errors.Is(err, store.ErrConflict) {
				f.Error(err)
			}
			return true
		})
		if (captures.Load() > 0) == (releases.Load() > 0) {
			f.Fatalf("round %d: %d captures and %d releases took effect", round, captures.Load(), releases.Load())
		}
		if captures.Load() > 0 {
			f.credit(payer, fee)
		}
	}
}

func oneCreditID(f *fixture) {
	payer := f.account(0)
	rounds := f.rounds(40)
	for range rounds {
		operation := tenant.NewID("credit")
		race(racers, func() bool {
			if _, err := f.Credit(f.Context(), payer, fee, operation); err != nil {
				f.Error(err)
			}
			return true
		})
	}
	if b := f.balance(payer); int(b.Available/fee) != rounds {
		f.Errorf("%d credits of %d made %+v", rounds, fee, b)
	}
}

func allAreAnswered(f *fixture) {
	const callers = 2_000
	payer, app := f.account(callers*fee), newAppID()
	ctx, cancel := context.WithTimeout(f.Context(), time.Minute)
	defer cancel()
	n := race(callers, func() bool {
		d, err := f.Admit(ctx, ask(store.Hold, app, payer, roomy))
		return err == nil && d.Verdict == store.Admitted
	})
	if n != callers {
		f.Fatalf("%d of %d callers were admitted", n, callers)
	}
	f.wantBalance(payer, 0, callers*fee, 0)
}

func oneRecord(f *fixture) {
	ctx := f.Context()
	account, app := f.addApp()
	once := func(what string, create func() error) {
		f.Helper()
		if n := race(16, func() bool {
			err := create()
			if err != nil && !errors.Is(err, store.ErrExists) {
				f.Error(err)
			}
			return err == nil
		}); n != 1 {
			f.Errorf("one %s was created %d times", what, n)
		}
	}
	for i := range 10 {
		newAccount, newApp, key := newAccount(i), newApp(account.ID, i), newKey(app.ID, i)
		once("account", func() error { return f.CreateAccount(ctx, newAccount) })
		once("app", func() error { return f.CreateApp(ctx, newApp) })
		once("key", func() error { return f.CreateKey(ctx, key) })
		once("digest", func() error {
			other := key
			other.ID, other.Digest = tenant.KeyID(tenant.NewID("key")), tenant.KeyDigest{byte(i)}
			return f.CreateKey(ctx, other)
		})
	}
}
