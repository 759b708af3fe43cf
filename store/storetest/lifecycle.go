package storetest

import (
	"errors"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

var lifecycleChecks = []check{
	{"windows outlast a restart", windowsOutlastRestart},
	{"windows are as exact after a restart", windowsExactAfterRestart},
	{"windows that fill after a restart are as exact", windowsFillAfterRestart},
	{"balances and open holds outlast a restart", holdsOutlastRestart},
	{"sequence numbers go on after a restart", seqGoesOn},
	{"a closed store says so", closedSaysSo},
	{"closing waits for what is under way", closeWaits},
}

func windowsOutlastRestart(f *fixture) {
	payer := f.account(20 * fee)
	limits := tenant.RateLimit{PerSecond: 9, PerMinute: 4}
	apps := map[store.Mode]tenant.AppID{store.Count: newAppID(), store.Hold: newAppID()}
	all := func(want store.Decision) {
		f.Helper()
		for mode, app := range apps {
			f.wantDecision(ask(mode, app, payer, limits), want)
		}
	}
	for i := range 2 {
		all(decision(store.Admitted, limits, 8, 3-2*i))
		all(decision(store.Admitted, limits, 7, 2-2*i))
		f.restart()
		f.Advance(2 * time.Second)
	}
	all(decision(store.OverMinute, limits, 9, 0))
	f.restart()
	all(decision(store.OverMinute, limits, 9, 0))
	f.Advance(57 * time.Second) // the first two are 61 s old, the others 59 s
	all(decision(store.Admitted, limits, 8, 1))

	short := tenant.RateLimit{PerSecond: 2, PerMinute: 15}
	app := newAppID()
	f.fill(app, payer, short, 2)
	f.restart()
	if !f.realTime { // a restart may take longer than a second
		f.wantDecision(ask(store.Count, app, payer, short), decision(store.OverSecond, short, 0, 13))
	}
	f.Advance(time.Second)
	f.wantDecision(ask(store.Count, app, payer, short), decision(store.Admitted, short, 1, 12))
}

// A second in which few were admitted stands within a minute in which many were,
// and neither the one nor the restart may blur the other.
func windowsExactAfterRestart(f *fixture) {
	app, payer := newAppID(), f.account(1)
	busy, limits := tenant.RateLimit{PerSecond: 600, PerMinute: 2_000}, tenant.RateLimit{PerSecond: 19, PerMinute: 2_000}
	crowd(600, func(int) {
		if _, err := f.Admit(f.Context(), ask(store.Count, app, payer, busy)); err != nil {
			f.Error(err)
		}
	})
	f.Advance(10 * time.Second)
	f.fill(app, payer, limits, 9)
	f.Advance(500 * time.Millisecond)
	f.fill(app, payer, limits, 10)
	f.restart()
	for _, want := range []int{9, 10} {
		f.Advance(500 * time.Millisecond)
		got := 0
		for f.admit(ask(store.Count, app, payer, limits)).Verdict == store.Admitted {
			got++
		}
		// In real time, the restart has taken time of its own.
		if got != want && !f.realTime {
			f.Errorf("%d admitted, want the %d that have just left the window", got, want)
		}
	}
}

// What a restart finds is little; what comes after it is much. A store that
// keeps neighbours together must not keep the wrong ones.
func windowsFillAfterRestart(f *fixture) {
	app, payer := newAppID(), f.account(1)
	limits := tenant.RateLimit{PerSecond: 600, PerMinute: 10_000}
	var admitted atomic.Int64
	visit := func(requests int) {
		crowd(requests, func(int) {
			d, err := f.Admit(f.Context(), ask(store.Count, app, payer, limits))
			if err != nil {
				f.Error(err)
			}
			if d.Verdict == store.Admitted {
				admitted.Add(1)
			}
		})
	}
	for i := range 150 {
		if i == 30 {
			f.restart()
		}
		visit(4)
		f.Advance(time.Millisecond)
	}
	f.Advance((1_000 + 21 - 150) * time.Millisecond) // those of the first 22 visits have left
	visit(200)
	exact := int64(600 + 22*4)
	if n := admitted.Load(); (n > exact || n*20 < exact*19) && !f.realTime {
		f.Errorf("%d admitted, of which an exact log admits %d", n, exact)
	}
}

func holdsOutlastRestart(f *fixture) {
	ctx := f.Context()
	payer := f.account(9 * fee)
	captured, released, early, late := f.hold(payer), f.hold(payer), f.hold(payer), f.hold(payer)
	f.must(f.Capture(ctx, captured, "wamid.1"))
	f.must(f.Release(ctx, released))
	f.Advance(time.Second)
	f.hold(payer)
	between := f.last(payer).At
	f.wantBalance(payer, 5*fee, 3*fee, fee)

	entries := f.ledger(payer, time.Time{})
	f.restart()
	f.wantBalance(payer, 5*fee, 3*fee, fee)
	f.wantSame("ledger after a restart", f.ledger(payer, time.Time{}), entries)
	f.must(f.Capture(ctx, early, "wamid.2"))
	f.wantBalance(payer, 5*fee, 2*fee, 2*fee)
	f.inDoubt(between, store.Captured, 1)
	f.wantBalance(payer, 5*fee, fee, 3*fee)
	f.wantError("Release of a hold that was in doubt", f.Release(ctx, late), store.ErrConflict)
}

func seqGoesOn(f *fixture) {
	one, other := f.account(9*fee), f.account(9*fee)
	var seqs []int64
	for i := range 6 {
		payer := one
		if i%2 == 1 {
			payer = other
			f.restart()
		}
		f.hold(payer)
		seqs = append(seqs, f.last(payer).Seq)
	}
	for i := range seqs[1:] {
		if seqs[i+1] <= seqs[i] {
			f.Errorf("sequence numbers %v do not grow over accounts and restarts", seqs)
		}
	}
}

func closedSaysSo(f *fixture) {
	ctx := f.Context()
	account, app := f.addApp()
	key := newKey(app.ID, 0)
	f.must(f.CreateKey(ctx, key))
	f.credit(account.ID, 9*fee)
	id := f.hold(account.ID)
	f.receiveOne(app.ID)
	claimed := f.claimOne(app.ID, lease)
	f.close()
	calls := f.outboxCalls(ctx, id, claimed)
	maps.Copy(calls, map[string]func() error{
		"Grant":         func() error { _, err := f.Grant(ctx, key.Digest); return err },
		"BindPepper":    func() error { return f.BindPepper(ctx, "00112233aabbccdd") },
		"CreateAccount": func() error { return f.CreateAccount(ctx, newAccount(1)) },
		"Account":       func() error { _, err := f.Account(ctx, account.ID); return err },
		"Accounts":      func() error { _, err := f.Accounts(ctx); return err },
		"CreateApp":     func() error { return f.CreateApp(ctx, newApp(account.ID, 1)) },
		"UpdateApp": func() error {
			_, err := f.UpdateApp(ctx, app.ID, func(*tenant.App) error { return nil })
			return err
		},
		"App":       func() error { _, err := f.App(ctx, app.ID); return err },
		"Apps":      func() error { _, err := f.Apps(ctx); return err },
		"CreateKey": func() error { return f.CreateKey(ctx, newKey(app.ID, 1)) },
		"Keys":      func() error { _, err := f.Keys(ctx, app.ID); return err },
		"RevokeKey": func() error { return f.RevokeKey(ctx, key.ID, created) },
		"Admit": func() error {
			for _, mode := range modes {
				if _, err := f.Admit(ctx, ask(mode, app.ID, account.ID, roomy)); !errors.Is(err, store.ErrClosed) {
					return err
				}
			}
			return store.ErrClosed
		},
		"Capture": func() error { return f.Capture(ctx, id, "wamid.1") },
		"Release": func() error { return f.Release(ctx, id) },
		"InDoubt": func() error { _, err := f.InDoubt(ctx, f.Now().Add(time.Hour), store.Captured); return err },
		"Credit":  func() error { _, err := f.Credit(ctx, account.ID, 1, "op"); return err },
		"Balance": func() error { _, err := f.Balance(ctx, account.ID); return err },
		"Ledger": func() error {
			for _, err := range f.Ledger(ctx, account.ID, time.Time{}) {
				return err
			}
			return nil
		},
	})
	for name, call := range calls {
		f.wantError(name+" after Close", call(), store.ErrClosed)
	}
	f.Generation() // has no way to say it, and does not panic
}

// What an Admit that races with Close answers is what is there afterwards.
func closeWaits(f *fixture) {
	payer, app := f.account(1_000*fee), newAppID()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var held pricing.Micros
	started := make(chan struct{}, racers)
	for range racers {
		wg.Go(func() {
			for n := 0; ; n++ {
				d, err := f.Admit(f.Context(), ask(store.Hold, app, payer, roomy))
				if n == 0 {
					started <- struct{}{}
				}
				if err != nil || d.Verdict != store.Admitted {
					if !errors.Is(err, store.ErrClosed) && d.Verdict != store.NoBalance && d.Verdict != store.OverMinute {
						f.Errorf("Admit while the store is closed: %s, %v", verdictName(d.Verdict), err)
					}
					return
				}
				mu.Lock()
				held += fee
				mu.Unlock()
			}
		})
	}
	for range racers {
		<-started
	}
	f.close()
	wg.Wait()
	f.Store = f.Reopen()
	f.closed = false
	f.wantBalance(payer, 1_000*fee-held, held, 0)
}
