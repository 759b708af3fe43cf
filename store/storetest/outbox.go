package storetest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

var outboxChecks = []check{
	{"an empty outbox has nothing", emptyOutbox},
	{"events come back as they were received", eventsComeBack},
	{"the store says when an event was received", storeSetsTimes},
	{"payloads are kept byte for byte", payloadsAreKept},
	{"events are listed oldest first without payloads", eventsAreListed},
	{"events are listed by app and state", eventsAreFiltered},
	{"a list of events can be left half-way", eventsLeft},
	{"events that were received again are there once", eventsReceivedAgain},
	{"payloads that were read are copies", payloadsAreCopies},
	{"the backlog is what is pending", backlogIsPending},
	{"quarantined events are kept and never due", quarantinedAreKept},
	{"the newest quarantined events are kept", quarantineIsBounded},
	{"quarantined events are bounded in size", quarantineIsBoundedInSize},
}

// newEvent is an event to deliver.
func newEvent(app tenant.AppID) store.Event {
	id := store.NewEventID()
	return store.Event{
		ID: id, App: app, Name: tenant.EventMessages, State: store.Pending,
		Payload: []byte(`{"object":"whatsapp_business_account","entry":["` + string(id) + `"]}`),
	}
}

func newEvents(app tenant.AppID, n int) (events []store.Event) {
	for range n {
		events = append(events, newEvent(app))
	}
	return events
}

// quarantined is an event that nobody is to get.
func quarantined(payload []byte) store.Event {
	return store.Event{ID: store.NewEventID(), State: store.Quarantined, Payload: payload, LastError: "no app has this number"}
}

func (f *fixture) receive(events ...store.Event) {
	f.Helper()
	results, err := f.Receive(f.Context(), events, nil)
	f.must(err)
	if len(results) > 0 {
		f.Errorf("%d results without a status", len(results))
	}
}

// receiveOne receives a new event of the app and returns it as the store has it.
func (f *fixture) receiveOne(app tenant.AppID) store.Event {
	f.Helper()
	e := newEvent(app)
	f.receive(e)
	return f.event(e.ID)
}

func (f *fixture) event(id store.EventID) store.Event {
	f.Helper()
	e, err := f.Event(f.Context(), id)
	f.must(err)
	return e
}

func (f *fixture) events(filter store.EventFilter) (events []store.Event) {
	f.Helper()
	for e, err := range f.Events(f.Context(), filter) {
		f.must(err)
		events = append(events, e)
	}
	return events
}

func ids[E store.Event | store.Claimed](events []E) (ids []store.EventID) {
	for _, e := range events {
		switch e := any(e).(type) {
		case store.Event:
			ids = append(ids, e.ID)
		case store.Claimed:
			ids = append(ids, e.ID)
		}
	}
	return ids
}

func (f *fixture) wantEvents(filter store.EventFilter, want ...store.Event) {
	f.Helper()
	f.wantSame(fmt.Sprintf("events with %+v", filter), ids(f.events(filter)), ids(want))
}

func (f *fixture) backlog() map[tenant.AppID]time.Time {
	f.Helper()
	backlog, err := f.Backlog(f.Context())
	f.must(err)
	return backlog
}

func emptyOutbox(f *fixture) {
	ctx := f.Context()
	app := newAppID()
	for range 2 { // the second time after a restart
		f.wantEvents(store.EventFilter{})
		_, err := f.Event(ctx, store.NewEventID())
		f.wantError("Event", err, store.ErrNotFound)
		f.wantSame("backlog", f.backlog(), map[tenant.AppID]time.Time{})
		f.wantClaim(app, 10, time.Minute)
		holds, err := f.Holds(ctx, nil)
		f.must(err)
		f.wantSame("holds", holds, map[store.HoldID]store.Sender{})
		results, err := f.Receive(ctx, nil, nil)
		f.must(err)
		f.wantSame("results", results, []store.StatusResult{})
		f.bury(app, f.Now().Add(time.Hour), 0)
		f.replay(0, app)
		f.restart()
	}
}

func eventsComeBack(f *fixture) {
	app := newAppID()
	var want []store.Event
	for _, name := range tenant.Events {
		e := newEvent(app)
		e.Name = name
		want = append(want, e)
	}
	want = append(want, quarantined([]byte("not JSON")))
	f.receive(want...)
	for range 2 { // the second time after a restart
		for _, e := range want {
			got := f.event(e.ID)
			got.ReceivedAt, got.NextAttemptAt = time.Time{}, time.Time{}
			f.wantSame("event", got, e)
		}
		f.wantEvents(store.EventFilter{}, want...)
		f.restart()
	}
}

// Stores keep whole milliseconds at the least.
func storeSetsTimes(f *fixture) {
	pending, other := newEvent(newAppID()), quarantined([]byte("x"))
	for _, e := range []*store.Event{&pending, &other} {
		e.ReceivedAt, e.NextAttemptAt = f.Now().Add(-time.Hour), f.Now().Add(time.Hour)
	}
	before := f.Now()
	f.receive(pending, other)
	after := f.Now()
	for range 2 { // the second time after a restart
		got := f.event(pending.ID)
		if got.ReceivedAt.Before(before.Add(-time.Millisecond)) || got.ReceivedAt.After(after.Add(time.Millisecond)) {
			f.Errorf("received at %v, which is not between %v and %v", got.ReceivedAt, before, after)
		}
		if !got.NextAttemptAt.Equal(got.ReceivedAt) {
			f.Errorf("received at %v and due at %v", got.ReceivedAt, got.NextAttemptAt)
		}
		if at := f.event(other.ID).NextAttemptAt; !at.IsZero() {
			f.Errorf("a quarantined event is due at %v", at)
		}
		f.restart()
	}
}

// payloads are bytes that a store might spoil.
func payloads() map[string][]byte {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	large := make([]byte, 3<<20)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range large {
		large[i] = byte(r.Uint32())
	}
	return map[string][]byte{
		"every byte": all, "zeros": make([]byte, 7), "invalid UTF-8": []byte("{\"a\":\"\xff\xc0\"}"), "large": large,
		"spaces": []byte(" {\t\"a\" : 1.0 ,\r\n\"a\":1e0} \n"), "escapes": []byte(`{"a":"\u00e9\/\ud83d\ude00"}`),
	}
}

func payloadsAreKept(f *fixture) {
	app := newAppID()
	for name, payload := range payloads() {
		e, unknown := newEvent(app), quarantined(payload)
		e.Payload = payload
		f.receive(e, unknown)
		for _, id := range []store.EventID{e.ID, unknown.ID} {
			if got := f.event(id).Payload; !bytes.Equal(got, payload) {
				f.Errorf("%s: the payload is not what it was", name)
			}
		}
		claimed := f.claim(app, 10, time.Minute)
		if len(claimed) != 1 || !bytes.Equal(claimed[0].Payload, payload) {
			f.Fatalf("%s: the payload of a claim is not what it was", name)
		}
		f.settle(claimed[0], store.Attempt{Result: store.Delivered})
	}
	for _, payload := range [][]byte{nil, {}} {
		e := quarantined(payload)
		f.receive(e)
		if got := f.event(e.ID).Payload; len(got) > 0 {
			f.Errorf("an empty payload has become %d bytes", len(got))
		}
	}
}

func eventsAreListed(f *fixture) {
	apps := []tenant.AppID{newAppID(), newAppID()}
	var want []store.Event
	for i := range 12 {
		batch := newEvents(apps[i%2], 1+i%3)
		f.receive(batch...)
		want = append(want, batch...)
		if i%4 == 3 {
			f.Advance(time.Millisecond)
		}
	}
	for range 2 { // the second time after a restart
		got := f.events(store.EventFilter{})
		for i, e := range got {
			if len(e.Payload) > 0 {
				f.Fatalf("event %d is listed with its payload", i)
			}
			full := f.event(e.ID)
			full.Payload = nil
			f.wantSame("listed event", e, full)
		}
		f.wantSame("list", ids(got), ids(want))
		f.restart()
	}
}

func eventsAreFiltered(f *fixture) {
	one, other := newAppID(), newAppID()
	dead, pending, others := f.deadLetter(one), newEvent(one), f.deadLetter(other)
	f.receive(pending)
	unknown := quarantined([]byte("x"))
	f.receive(unknown)
	f.wantEvents(store.EventFilter{}, dead, others, pending, unknown)
	f.wantEvents(store.EventFilter{App: one}, dead, pending)
	f.wantEvents(store.EventFilter{App: other}, others)
	f.wantEvents(store.EventFilter{App: newAppID()})
	f.wantEvents(store.EventFilter{State: store.Pending}, pending)
	f.wantEvents(store.EventFilter{State: store.Dead}, dead, others)
	f.wantEvents(store.EventFilter{State: store.Quarantined}, unknown)
	f.wantEvents(store.EventFilter{App: one, State: store.Dead}, dead)
	f.wantEvents(store.EventFilter{App: other, State: store.Pending})
	f.wantEvents(store.EventFilter{App: one, State: store.Quarantined})
}

func eventsLeft(f *fixture) {
	app := newAppID()
	f.receive(newEvents(app, 5)...)
	sequence := f.Events(f.Context(), store.EventFilter{App: app})
	for range 2 { // a sequence can be ranged over again
		n := 0
		for _, err := range sequence {
			f.must(err)
			if n++; n == 2 {
				break
			}
		}
	}
	f.receive(newEvent(app))
	if n := len(f.events(store.EventFilter{App: app})); n != 6 {
		f.Errorf("%d events, want 6", n)
	}
}

// A Receive that has failed may be called again with the same, and may have
// taken effect all the same.
func eventsReceivedAgain(f *fixture) {
	app := newAppID()
	first := newEvents(app, 3)
	unknown := quarantined([]byte("x"))
	f.receive(append(first, unknown)...)
	before := f.event(first[0].ID)
	later := newEvent(app)
	f.Advance(time.Second)
	for range 2 { // the second time after a restart
		f.receive(append(first, unknown, later)...)
		f.wantEvents(store.EventFilter{App: app}, append(first, later)...)
		f.wantEvents(store.EventFilter{State: store.Quarantined}, unknown)
		f.wantSame("event", f.event(first[0].ID), before)
		f.restart()
	}
}

func payloadsAreCopies(f *fixture) {
	e := newEvent(newAppID())
	want := bytes.Clone(e.Payload)
	f.receive(e)
	clear(e.Payload) // what was given to Receive
	got := f.event(e.ID)
	f.wantSame("payload", got.Payload, want)
	clear(got.Payload)
	claimed := f.claim(e.App, 1, time.Minute)
	f.wantSame("payload of the claim", claimed[0].Payload, want)
	clear(claimed[0].Payload)
	f.wantSame("payload", f.event(e.ID).Payload, want)
}

func backlogIsPending(f *fixture) {
	one, other := newAppID(), newAppID()
	f.deadLetter(newAppID())
	f.receive(quarantined([]byte("x")))
	f.wantSame("backlog without pending events", f.backlog(), map[tenant.AppID]time.Time{})

	first := f.receiveOne(one)
	f.Advance(time.Second)
	second, third := f.receiveOne(one), f.receiveOne(other)
	f.wantSame("backlog", f.backlog(), map[tenant.AppID]time.Time{one: first.NextAttemptAt, other: third.NextAttemptAt})
	claimed := f.claim(one, 1, time.Minute)
	f.wantSame("backlog with a claimed event", f.backlog(),
		map[tenant.AppID]time.Time{one: first.NextAttemptAt, other: third.NextAttemptAt})
	later := f.inAnHour()
	f.settle(claimed[0], store.Attempt{Result: store.Failed, NextAttemptAt: later, Error: "503"})
	f.wantSame("backlog after a failure", f.backlog(),
		map[tenant.AppID]time.Time{one: second.NextAttemptAt, other: third.NextAttemptAt})
	f.settle(f.claim(one, 1, time.Minute)[0], store.Attempt{Result: store.Delivered})
	f.settle(f.claim(other, 1, time.Minute)[0], store.Attempt{Result: store.Delivered})
	for range 2 { // the second time after a restart
		f.wantSame("backlog of what failed", f.backlog(), map[tenant.AppID]time.Time{one: later})
		f.restart()
	}
}

func quarantinedAreKept(f *fixture) {
	unknown := quarantined([]byte("x"))
	unknown.LastError = strings.Repeat("the body is not JSON: ü ", 10)
	f.receive(unknown)
	f.wantClaim("", 10, time.Minute)
	f.wantSame("backlog", f.backlog(), map[tenant.AppID]time.Time{})
	f.bury("", f.Now().Add(time.Hour), 0)
	for range 2 { // the second time after a restart
		got := f.event(unknown.ID)
		got.ReceivedAt = time.Time{}
		f.wantSame("event", got, unknown)
		f.restart()
	}
}

func quarantineIsBounded(f *fixture) {
	app := newAppID()
	pending, dead := f.receiveOne(app), f.deadLetter(newAppID())
	var all []store.Event
	for len(all) < store.MaxQuarantined+150 {
		var batch []store.Event
		for range 50 {
			batch = append(batch, quarantined([]byte("x")))
		}
		f.receive(batch...)
		all = append(all, batch...)
	}
	kept := all[len(all)-store.MaxQuarantined:]
	f.wantEvents(store.EventFilter{State: store.Quarantined}, kept...)
	f.receive(quarantined([]byte("y")))
	if n := len(f.events(store.EventFilter{State: store.Quarantined})); n != store.MaxQuarantined {
		f.Errorf("%d quarantined events are kept, want %d", n, store.MaxQuarantined)
	}
	f.wantEvents(store.EventFilter{State: store.Pending}, pending)
	f.wantEvents(store.EventFilter{State: store.Dead}, dead)
}

func quarantineIsBoundedInSize(f *fixture) {
	const size = 4<<20 - 1
	payload := make([]byte, size)
	small := quarantined([]byte("x"))
	f.receive(small)
	var all []store.Event
	for range store.MaxQuarantinedSize/size + 2 {
		e := quarantined(payload)
		f.receive(e)
		all = append(all, e)
	}
	f.wantEvents(store.EventFilter{State: store.Quarantined}, all[len(all)-store.MaxQuarantinedSize/size:]...)
	f.receive(small)
	f.wantSame("payload", f.event(small.ID).Payload, small.Payload)
}
