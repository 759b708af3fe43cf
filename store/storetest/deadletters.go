package storetest

import (
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

var deadLetterChecks = []check{
	{"burying makes dead letters of what was received before", buryBefore},
	{"claimed events are not buried", buryLeavesClaimed},
	{"burying ends a claim that has run out", buryEndsClaim},
	{"many events can be buried and replayed", buryMany},
	{"dead letters are replayed by id", replayByID},
	{"dead letters are replayed by app", replayByApp},
	{"a replayed event has all attempts ahead of it", replayStartsAnew},
	{"a replay of what is no dead letter changes nothing", replayUnknown},
	{"dead letters are kept for as long as promised", deadLettersAreKept},
}

func (f *fixture) bury(app tenant.AppID, before time.Time, want int) {
	f.Helper()
	n, err := f.Bury(f.Context(), app, before, "buried")
	f.must(err)
	if n != want {
		f.Errorf("Bury has buried %d events, want %d", n, want)
	}
}

func (f *fixture) replay(want int, app tenant.AppID, ids ...store.EventID) {
	f.Helper()
	n, err := f.Replay(f.Context(), ids, app)
	f.must(err)
	if n != want {
		f.Errorf("Replay has replayed %d events, want %d", n, want)
	}
}

// deadLetter makes a dead letter of an app that has nothing due.
func (f *fixture) deadLetter(app tenant.AppID) store.Event {
	f.Helper()
	e := f.receiveOne(app)
	f.settle(f.claimOne(app, lease), store.Attempt{Result: store.GivenUp, Error: "410"})
	return f.event(e.ID)
}

func buryBefore(f *fixture) {
	app, other := newAppID(), newAppID()
	var all []store.Event
	for range 4 {
		all = append(all, f.receiveOne(app))
		f.receiveOne(other)
		f.Advance(time.Second)
	}
	f.bury(app, all[0].ReceivedAt, 0)
	f.bury(app, all[0].ReceivedAt.Add(time.Millisecond), 1)
	f.bury(app, all[2].ReceivedAt, 1)
	f.bury(app, all[2].ReceivedAt, 0)
	for range 2 { // the second time after a restart
		for _, want := range all[:2] {
			want.State, want.NextAttemptAt, want.LastError = store.Dead, time.Time{}, "buried"
			f.wantSame("buried event", f.event(want.ID), want)
		}
		for _, want := range all[2:] {
			f.wantSame("event that came later", f.event(want.ID), want)
		}
		f.wantSame("backlog", f.backlog()[app], all[2].NextAttemptAt)
		f.wantSame("events of the other app", len(f.events(store.EventFilter{App: other, State: store.Pending})), 4)
		f.restart()
	}
	f.bury(app, f.Now().Add(time.Hour), 2)
	f.wantNext(app, time.Time{})
}

func buryLeavesClaimed(f *fixture) {
	app := newAppID()
	f.receive(newEvents(app, 3)...)
	claimed := f.claim(app, 1, lease)
	f.claim(app, 1, brief)
	f.pass()
	f.bury(app, f.Now().Add(time.Second), 2)
	f.wantSame("claimed event", f.event(claimed[0].ID), claimed[0].Event)
	f.settle(claimed[0], store.Attempt{Result: store.Failed, NextAttemptAt: f.Now(), Error: "503"})
	f.Advance(time.Millisecond)
	f.bury(app, f.Now().Add(time.Second), 1)
	got := f.event(claimed[0].ID)
	f.wantSame("attempts of what was buried", got.Attempts, 1)
	f.wantSame("why it was buried", got.LastError, "buried")
}

func buryEndsClaim(f *fixture) {
	for _, result := range []store.AttemptResult{store.Failed, store.GivenUp} {
		app := newAppID()
		e := f.receiveOne(app)
		stale := f.claimOne(app, brief)
		f.pass()
		f.bury(app, f.Now().Add(time.Second), 1)
		f.replay(1, "", e.ID)
		replayed := f.event(e.ID)
		f.settle(stale, store.Attempt{Result: result, NextAttemptAt: f.inAnHour(), Error: "stale"})
		f.wantSame("replayed event", f.event(e.ID), replayed)
		f.settle(stale, store.Attempt{Result: store.Delivered})
		f.wantEvents(store.EventFilter{App: app})
	}
}

func buryMany(f *fixture) {
	const events = 2_500 // a step of a store may move fewer
	app := newAppID()
	all := newEvents(app, events)
	f.receive(all...)
	claimed := f.claim(app, 2, lease)
	f.Advance(time.Second)
	f.bury(app, f.Now(), events-len(claimed))
	f.replay(events-len(claimed), app)
	f.wantEvents(store.EventFilter{App: app, State: store.Pending}, all...)
}

func replayByID(f *fixture) {
	app, other := newAppID(), newAppID()
	one, two, three, others := f.deadLetter(app), f.deadLetter(app), f.deadLetter(app), f.deadLetter(other)
	f.replay(2, "", one.ID, others.ID)
	f.wantEvents(store.EventFilter{State: store.Dead}, two, three)
	// The ids alone count where there are any.
	f.replay(1, other, two.ID)
	for range 2 { // the second time after a restart
		f.wantEvents(store.EventFilter{State: store.Dead}, three)
		f.wantSame("events of the app to deliver", len(f.events(store.EventFilter{App: app, State: store.Pending})), 2)
		f.restart()
	}
	f.wantClaim(other, 10, lease, others)
}

func replayByApp(f *fixture) {
	app, other := newAppID(), newAppID()
	f.replay(0, app)
	one, two, others := f.deadLetter(app), f.deadLetter(app), f.deadLetter(other)
	unknown := quarantined([]byte("x"))
	f.receive(unknown)
	pending := f.receiveOne(app)
	f.replay(0, "") // nobody's dead letters
	f.replay(0, newAppID())
	f.replay(2, app)
	f.replay(0, app)
	f.wantEvents(store.EventFilter{State: store.Dead}, others)
	f.wantEvents(store.EventFilter{State: store.Quarantined}, unknown)
	f.wantSame("event that was pending", f.event(pending.ID), pending)
	f.wantSame("claimed events", len(f.claim(app, 10, lease)), 3)
	f.wantSame("attempts", f.event(one.ID).Attempts+f.event(two.ID).Attempts, 0)
}

func replayStartsAnew(f *fixture) {
	app := newAppID()
	e := f.receiveOne(app)
	for range 3 {
		f.settle(f.claimOne(app, lease), store.Attempt{Result: store.Failed, NextAttemptAt: f.Now(), Error: "503"})
		f.Advance(time.Millisecond)
	}
	dead := f.claimOne(app, lease)
	f.settle(dead, store.Attempt{Result: store.GivenUp, Error: "410"})
	f.Advance(time.Second)
	before := f.Now()
	f.replay(1, "", e.ID)
	after := f.Now()
	for range 2 { // the second time after a restart
		got := f.event(e.ID)
		if got.State != store.Pending || got.Attempts != 0 {
			f.Errorf("a replayed event is %s after %d attempts", got.State, got.Attempts)
		}
		if at := got.NextAttemptAt; at.Before(before.Add(-time.Millisecond)) || at.After(after.Add(time.Millisecond)) {
			f.Errorf("an event that was replayed between %v and %v is due at %v", before, after, at)
		}
		f.wantSame("time of receipt", got.ReceivedAt, got.NextAttemptAt)
		f.wantSame("backlog", f.backlog(), map[tenant.AppID]time.Time{app: got.NextAttemptAt})
		f.restart()
	}
	f.settle(dead, store.Attempt{Result: store.GivenUp, Error: "stale"})
	c := f.claimOne(app, lease)
	f.wantSame("payload", c.Payload, e.Payload)
	f.settle(c, store.Attempt{Result: store.Failed, NextAttemptAt: f.inAnHour(), Error: "503"})
	f.wantSame("attempts", f.event(e.ID).Attempts, 1)
}

func replayUnknown(f *fixture) {
	app := newAppID()
	dead := f.deadLetter(app)
	pending := f.receiveOne(app)
	delivered := f.receiveOne(newAppID())
	f.settle(f.claimOne(delivered.App, lease), store.Attempt{Result: store.Delivered})
	unknown := quarantined([]byte("x"))
	f.receive(unknown)
	before := f.events(store.EventFilter{})
	for _, id := range []store.EventID{pending.ID, unknown.ID, delivered.ID, store.NewEventID(), "", "x", "'; --"} {
		for _, list := range [][]store.EventID{{id}, {dead.ID, id}, {id, dead.ID}} {
			n, err := f.Replay(f.Context(), list, app)
			f.wantError("Replay", err, store.ErrNotFound)
			f.wantSame("number replayed", n, 0)
			f.wantSame("events", f.events(store.EventFilter{}), before)
		}
	}
}

func deadLettersAreKept(f *fixture) {
	app := newAppID()
	first := f.deadLetter(app)
	f.receiveOne(app)
	if !f.realTime {
		f.Advance(store.DeadLetterLifetime - time.Hour)
	}
	f.bury(app, f.Now().Add(time.Second), 1) // long after it was received
	f.wantEvents(store.EventFilter{State: store.Dead, App: app}, append([]store.Event{first}, f.events(store.EventFilter{})[1])...)
	f.restart()
	if !f.realTime {
		f.Advance(30 * time.Minute)
	}
	f.replay(2, app)
}
