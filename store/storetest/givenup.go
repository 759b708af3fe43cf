package storetest

import (
	"context"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

var givenUpChecks = []check{
	{"a cancelled context changes nothing in the outbox", cancelledOutbox},
	{"events and statuses that were given up half-way take effect together", givenUpTogether},
	{"what was received half-way takes effect once when it is repeated", givenUpReceive},
	{"an attempt whose outcome was given up half-way counts once", givenUpOutcome},
	{"what was received outlasts a restart", receivedOutlasts},
}

// outboxCalls are all calls on the outbox, none of which may change anything.
func (f *fixture) outboxCalls(ctx context.Context, open store.HoldID, c store.Claimed) map[string]func() error {
	calls := map[string]func() error{
		"AppsWithNumber": func() error { _, err := f.AppsWithNumber(ctx, "111"); return err },
		"AppsOfWABA":     func() error { _, err := f.AppsOfWABA(ctx, "1000001"); return err },
		"Holds":          func() error { _, err := f.Holds(ctx, []store.HoldID{open}); return err },
		"Receive": func() error {
			_, err := f.Receive(ctx, newEvents(c.App, 2), []store.Status{feeStatus(open, "wamid.1")})
			return err
		},
		"Receive of an event": func() error { _, err := f.Receive(ctx, newEvents(c.App, 1), nil); return err },
		"Receive of a status": func() error { _, err := f.Receive(ctx, nil, []store.Status{feeStatus(open, "wamid.1")}); return err },
		"Backlog":             func() error { _, err := f.Backlog(ctx); return err },
		"Claim":               func() error { _, _, err := f.Claim(ctx, c.App, 10, lease); return err },
		"Settle as delivered": func() error { return f.Settle(ctx, c, store.Attempt{Result: store.Delivered}) },
		"Bury":                func() error { _, err := f.Bury(ctx, c.App, f.Now().Add(time.Hour), "never"); return err },
		"Event":               func() error { _, err := f.Event(ctx, c.ID); return err },
		"Replay of an app":    func() error { _, err := f.Replay(ctx, nil, c.App); return err },
		"Replay of ids":       func() error { _, err := f.Replay(ctx, []store.EventID{c.ID}, ""); return err },
		"Events": func() error {
			for _, err := range f.Events(ctx, store.EventFilter{}) {
				return err
			}
			return nil
		},
	}
	for name, a := range map[string]store.Attempt{
		"returned": {Result: store.Returned}, "given up": {Result: store.GivenUp, Error: "never"},
		"failed": {Result: store.Failed, Error: "never", NextAttemptAt: f.inAnHour()},
	} {
		calls["Settle as "+name] = func() error { return f.Settle(ctx, c, a) }
	}
	return calls
}

func cancelledOutbox(f *fixture) {
	payer, app := f.account(9*fee), newAppID()
	id := f.hold(payer)
	f.deadLetter(app)
	f.receiveOne(app)
	c := f.claimOne(app, lease)
	free := f.receiveOne(app)
	cancelled, cancel := context.WithCancel(f.Context())
	cancel()
	late, cancel := context.WithDeadline(f.Context(), time.Now().Add(-time.Second))
	defer cancel()
	before := f.events(store.EventFilter{})
	f.wantUnchanged(payer, "cancelled calls", func() {
		for name, call := range f.outboxCalls(cancelled, id, c) {
			f.wantError(name+" with a cancelled context", call(), context.Canceled)
		}
		for name, call := range f.outboxCalls(late, id, c) {
			f.wantError(name+" after its deadline", call(), context.DeadlineExceeded)
		}
	})
	f.wantSame("events", f.events(store.EventFilter{}), before)
	f.wantClaim(app, 10, lease, free)
	f.settle(c, store.Attempt{Result: store.Delivered})
	f.restart()
	f.wantSame("number of events", len(f.events(store.EventFilter{})), len(before)-1)
	f.wantBalance(payer, 8*fee, fee, 0)
}

// given is what one webhook brings.
type given struct {
	events []store.Event
	status store.Status
}

func (f *fixture) given(app tenant.AppID, payer tenant.AccountID, n int) (all []given) {
	f.Helper()
	for range n {
		all = append(all, given{newEvents(app, 2), feeStatus(f.hold(payer), newMessageID())})
	}
	return all
}

// giveUpAll receives all of it at once, in contexts that end meanwhile.
func (f *fixture) giveUpAll(all []given) {
	f.Helper()
	left := make(chan given, len(all))
	for _, g := range all {
		left <- g
	}
	f.giveUp(func(ctx context.Context) bool {
		g := <-left
		_, err := f.Receive(ctx, g.events, []store.Status{g.status})
		return err == nil
	})
}

// givenUps is how many calls [fixture.giveUp] makes.
const givenUps = 16 * 20

func givenUpTogether(f *fixture) {
	app, payer := newAppID(), f.account(givenUps*(fee+priceUSD))
	all := f.given(app, payer, givenUps)
	f.giveUpAll(all)
	f.restart() // which waits for what is under way
	there := make(map[store.EventID]bool)
	for _, e := range f.events(store.EventFilter{App: app}) {
		there[e.ID] = true
	}
	fees := f.fees(payer)
	for _, g := range all {
		holds, err := f.Holds(f.Context(), []store.HoldID{g.status.Hold})
		f.must(err)
		first, second := there[g.events[0].ID], there[g.events[1].ID]
		if captured := holds[g.status.Hold].Captured; first != second || captured != first || (fees[g.status.MessageID] == 1) != captured {
			f.Fatalf("of one Receive, the events are there: %v, %v; the hold is captured: %v; template fees: %d",
				first, second, captured, fees[g.status.MessageID])
		}
	}
}

func givenUpReceive(f *fixture) {
	app, payer := newAppID(), f.account(givenUps*(fee+priceUSD))
	all := f.given(app, payer, givenUps)
	f.giveUpAll(all)
	var want []store.EventID
	for _, g := range all {
		_, err := f.Receive(f.Context(), g.events, []store.Status{g.status})
		f.must(err)
		want = append(want, ids(g.events)...)
	}
	got := make(map[store.EventID]bool)
	for _, id := range ids(f.events(store.EventFilter{App: app})) {
		if got[id] {
			f.Errorf("an event that was received again is there twice")
		}
		got[id] = true
	}
	f.wantSame("number of events", len(got), len(want))
	f.wantBalance(payer, 0, 0, givenUps*(fee+priceUSD))
}

func givenUpOutcome(f *fixture) {
	app := newAppID()
	f.receive(newEvents(app, givenUps)...)
	claimed := f.claim(app, givenUps, lease)
	f.wantSame("claimed events", len(claimed), givenUps)
	a := store.Attempt{Result: store.Failed, NextAttemptAt: f.inAnHour(), Error: "503"}
	left := make(chan store.Claimed, len(claimed))
	for _, c := range claimed {
		left <- c
	}
	f.giveUp(func(ctx context.Context) bool { return f.Settle(ctx, <-left, a) == nil })
	for _, c := range claimed {
		f.settle(c, a)
	}
	for _, e := range f.events(store.EventFilter{App: app}) {
		if e.Attempts != 1 {
			f.Fatalf("one attempt has become %d", e.Attempts)
		}
	}
}

// What an acknowledged Receive has brought is there, whatever it raced with.
func receivedOutlasts(f *fixture) {
	app, payer := newAppID(), f.account(100*(fee+priceUSD))
	all := f.given(app, payer, 100)
	crowd(len(all), func(i int) {
		if _, err := f.Receive(f.Context(), all[i].events, []store.Status{all[i].status}); err != nil {
			f.Error(err)
		}
	})
	f.restart()
	for _, g := range all {
		for _, e := range g.events {
			f.wantSame("payload", f.event(e.ID).Payload, e.Payload)
		}
	}
	f.wantBalance(payer, 0, 0, 100*(fee+priceUSD))
}
