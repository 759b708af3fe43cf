package redis

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
	"github.com/connexease/caddy-whatsapp-gateway/store/storetest"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// outbox is a store and the shorthands of these tests.
type outbox struct {
	*Store
	t     testing.TB
	clock *storetest.Clock
}

// openOutbox opens a store whose clock stands still, or Redis's own where there is none.
func openOutbox(t testing.TB, server *redistest.Server, clock *storetest.Clock) *outbox {
	t.Helper()
	o := testOptions(t, "single", "", server.URL())
	o.KeyPrefix, o.Serving = DefaultKeyPrefix, false // all work on the same, and nothing but events is written
	if clock != nil {
		o.Clock = clock.Now
	}
	return &outbox{open(t, o), t, clock}
}

func (o *outbox) must(err error) {
	o.t.Helper()
	if err != nil {
		o.t.Fatal(err)
	}
}

func (o *outbox) receive(events ...store.Event) {
	o.t.Helper()
	o.must(o.receiveEvents(o.t.Context(), events))
}

func (o *outbox) claim(app tenant.AppID, most int) []store.Claimed {
	o.t.Helper()
	claimed, _, err := o.Claim(o.t.Context(), app, most, time.Hour)
	o.must(err)
	return claimed
}

// settle ends the claims of n events.
func (o *outbox) settle(app tenant.AppID, n int, a store.Attempt) {
	o.t.Helper()
	claimed := o.claim(app, n)
	if len(claimed) != n {
		o.t.Fatalf("%d events were claimed, want %d", len(claimed), n)
	}
	for _, c := range claimed {
		o.must(o.Settle(o.t.Context(), c, a))
	}
}

func (o *outbox) list(f store.EventFilter) (ids []store.EventID) {
	o.t.Helper()
	for e, err := range o.Events(o.t.Context(), f) {
		o.must(err)
		ids = append(ids, e.ID)
	}
	return ids
}

func (o *outbox) backlog() map[tenant.AppID]time.Time {
	o.t.Helper()
	backlog, err := o.Backlog(o.t.Context())
	o.must(err)
	return backlog
}

// keys are those that Redis has, but for the numbers of the last events.
func (o *outbox) keys(server *redistest.Server) []string {
	o.t.Helper()
	reply, err := server.Command("KEYS", "*")
	o.must(err)
	return slices.DeleteFunc(texts(reply), func(key string) bool { return strings.HasSuffix(key, "}:last_event") })
}

// eventKey is the key of an event of an app.
func (o *outbox) eventKey(app tenant.AppID, id store.EventID) string {
	return o.base(placeOf(app)) + "event:" + string(id)
}

func outboxEvents(app tenant.AppID, n int) (events []store.Event) {
	for range n {
		id := store.NewEventID()
		events = append(events, store.Event{ID: id, App: app, Name: tenant.EventMessages, State: store.Pending, Payload: []byte(id)})
	}
	return events
}

func eventIDs(events []store.Event) (ids []store.EventID) {
	for _, e := range events {
		ids = append(ids, e.ID)
	}
	return ids
}

func wantIDs(t testing.TB, what string, got, want []store.EventID) {
	t.Helper()
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestOutboxWorksWhereScriptsAreForgotten(t *testing.T) {
	server := redistest.Start(t)
	o := openOutbox(t, server, storetest.NewClock())
	events := outboxEvents("app_1", 3)
	forget := func() *outbox { server.FlushScripts(); return o }
	forget().receive(events...)
	for _, c := range forget().claim("app_1", 1) {
		o.must(forget().Settle(t.Context(), c, store.Attempt{Result: store.GivenUp, Error: "410"}))
	}
	if n, err := forget().Bury(t.Context(), "app_1", o.clock.Now().Add(time.Second), "gone"); n != 2 || err != nil {
		t.Errorf("%d buried, error %v, want 2", n, err)
	}
	wantIDs(t, "dead letters", forget().list(store.EventFilter{State: store.Dead}), eventIDs(events))
	if n, err := forget().Replay(t.Context(), eventIDs(events[:1]), ""); n != 1 || err != nil {
		t.Errorf("%d replayed, error %v, want 1", n, err)
	}
	if n, err := forget().Replay(t.Context(), nil, "app_1"); n != 2 || err != nil {
		t.Errorf("%d replayed, error %v, want 2", n, err)
	}
	if e, err := forget().Event(t.Context(), events[2].ID); err != nil || !bytes.Equal(e.Payload, events[2].Payload) {
		t.Errorf("the payload is %q, error %v", e.Payload, err)
	}
	if n := len(forget().backlog()); n != 1 {
		t.Errorf("%d apps in the backlog, want 1", n)
	}
}

func TestLargeWebhookIsStoredOnce(t *testing.T) {
	const events, apps = 2_000, 3
	o := openOutbox(t, redistest.Start(t, "appendfsync no"), storetest.NewClock())
	var all []store.Event
	for i := range events {
		batch := outboxEvents(tenant.AppID(fmt.Sprintf("app_%d", i%apps)), 1)
		batch[0].Payload = bytes.Repeat([]byte{byte(i)}, 2_621) // 5 MiB in all
		all = append(all, batch...)
	}
	for range 2 {
		o.receive(all...)
		if n := len(o.list(store.EventFilter{})); n != events {
			t.Fatalf("%d events are listed, want %d", n, events)
		}
		for i := range apps {
			app := tenant.AppID(fmt.Sprintf("app_%d", i))
			want := slices.DeleteFunc(slices.Clone(all), func(e store.Event) bool { return e.App != app })
			wantIDs(t, "events of an app", o.list(store.EventFilter{App: app}), eventIDs(want))
		}
	}
	for i := range apps {
		app := tenant.AppID(fmt.Sprintf("app_%d", i))
		var claimed []store.EventID
		for {
			batch := o.claim(app, events)
			if len(batch) == 0 {
				break
			}
			for _, c := range batch {
				claimed = append(claimed, c.ID)
			}
		}
		wantIDs(t, "claimed events, in the order of their arrival", claimed, o.list(store.EventFilter{App: app}))
	}
}

func TestStepsAreBounded(t *testing.T) {
	for _, c := range []struct {
		name         string
		events, size int
		want         int
	}{
		{"few small events", 3, 10, 3},
		{"many small events", 2_000, 10, outboxGroup},
		{"large events", 10, 400 << 10, 2},
		{"events larger than a step", 10, 3 << 20, 1},
		{"events as large as a step", 3, outboxGroupSize, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var events []*store.Event
			for range c.events {
				events = append(events, &store.Event{Payload: make([]byte, c.size)})
			}
			if got := groupOf(events); got != c.want {
				t.Errorf("a step of %d events, want %d", got, c.want)
			}
		})
	}
}

func TestDeadLettersAreDeletedAfterTheirLifetime(t *testing.T) {
	server := redistest.Start(t)
	o := openOutbox(t, server, storetest.NewClock())
	apps := []tenant.AppID{"app_1", "app_2"}
	given := store.Attempt{Result: store.GivenUp, Error: "410"}
	for _, app := range apps {
		o.receive(outboxEvents(app, 120)...)
		o.settle(app, 120, given)
	}
	o.clock.Advance(time.Second)
	later := outboxEvents("app_2", 1)
	o.receive(later...)
	o.settle("app_2", 1, given)

	o.clock.Advance(store.DeadLetterLifetime - time.Second)
	for range 5 { // some are deleted each time
		o.backlog()
	}
	if n := len(o.list(store.EventFilter{State: store.Dead})); n != 241 {
		t.Fatalf("%d dead letters are left within their lifetime, want 241", n)
	}
	o.clock.Advance(time.Microsecond)
	for range 5 {
		o.backlog()
	}
	wantIDs(t, "dead letters", o.list(store.EventFilter{}), eventIDs(later))
	o.clock.Advance(time.Second)
	o.backlog()
	if keys := o.keys(server); len(keys) > 0 {
		t.Errorf("dead letters have left %q", keys)
	}
}

// Where no gateway runs any more, Redis deletes what users wrote.
func TestRedisDeletesDeadLettersByItself(t *testing.T) {
	server := redistest.Start(t)
	o := openOutbox(t, server, storetest.NewClock())
	events := outboxEvents("app_1", 2)
	o.receive(events...)
	lifetime := func(e store.Event) time.Duration {
		reply, err := server.Command("TTL", o.eventKey("app_1", e.ID))
		o.must(err)
		seconds, _ := reply.(int64)
		return time.Duration(seconds) * time.Second
	}
	o.settle("app_1", 1, store.Attempt{Result: store.GivenUp})
	if _, err := o.Bury(t.Context(), "app_1", o.clock.Now().Add(time.Second), "gone"); err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		if got := lifetime(e); got <= store.DeadLetterLifetime || got > store.DeadLetterLifetime+48*time.Hour {
			t.Errorf("Redis keeps a dead letter for %v", got)
		}
	}
	if _, err := server.Command("DEL", o.eventKey("app_1", events[0].ID)); err != nil {
		t.Fatal(err)
	}
	wantIDs(t, "events", o.list(store.EventFilter{}), eventIDs(events[1:]))
	if n, err := o.Replay(t.Context(), nil, "app_1"); n != 1 || err != nil {
		t.Errorf("%d replayed, error %v, want 1", n, err)
	}
	if got := lifetime(events[1]); got >= 0 {
		t.Errorf("Redis deletes a pending event after %v", got)
	}
	o.settle("app_1", 1, store.Attempt{Result: store.Delivered})
	o.backlog()
	if keys := o.keys(server); len(keys) > 0 {
		t.Errorf("events have left %q", keys)
	}
}

// What is to be buried may be due behind what is not, and the last that was
// looked at may be gone when the next page is read.
func TestBuryFindsAllWhileOthersAreClaimed(t *testing.T) {
	const old, fresh = 300, 300
	server := redistest.Start(t, "appendfsync no")
	clock := storetest.NewClock()
	o, other := openOutbox(t, server, clock), openOutbox(t, server, clock)
	all := outboxEvents("app_1", old)
	o.receive(all...)
	o.settle("app_1", old, store.Attempt{Result: store.Failed, NextAttemptAt: clock.Now().Add(time.Hour)})
	clock.Advance(time.Second)
	o.receive(outboxEvents("app_1", fresh)...)
	bury := func(app tenant.AppID) (int, error) { return o.Bury(t.Context(), app, clock.Now(), "gone") }
	if n, err := bury("app_2"); n != 0 || err != nil { // and the script is known
		t.Fatalf("%d buried, error %v, want none", n, err)
	}
	o.client.AddHook(&meddler{before: map[int]func(){2: func() { other.claim("app_1", outboxGroup+10) }}})
	if n, err := bury("app_1"); n != old || err != nil {
		t.Errorf("%d buried, error %v, want %d", n, err, old)
	}
	wantIDs(t, "dead letters", o.list(store.EventFilter{State: store.Dead}), eventIDs(all))
	if n := len(o.list(store.EventFilter{State: store.Pending})); n != fresh {
		t.Errorf("%d pending events, want %d", n, fresh)
	}
}

// What a step has not done in full is done when it is made again.
func TestEventIsNotLostWhereAnIndexIsSpoilt(t *testing.T) {
	server := redistest.Start(t)
	o := openOutbox(t, server, storetest.NewClock())
	e := outboxEvents("app_1", 1)[0]
	index := o.base(placeOf(e.App)) + "pending:app_1"
	if _, err := server.Command("SET", index, "spoilt"); err != nil {
		t.Fatal(err)
	}
	if err := o.receiveEvents(t.Context(), []store.Event{e}); err == nil {
		t.Error("an event was stored that could not be delivered")
	}
	if _, err := server.Command("DEL", index); err != nil {
		t.Fatal(err)
	}
	o.receive(e)
	if claimed := o.claim("app_1", 5); len(claimed) != 1 || claimed[0].ID != e.ID {
		t.Errorf("%d events were claimed, want 1", len(claimed))
	}
}

func TestQuarantineIsBoundedHoweverItFills(t *testing.T) {
	server := redistest.Start(t, "appendfsync no")
	o := openOutbox(t, server, storetest.NewClock())
	unknown := func(n, size int) (events []store.Event) {
		for range n {
			events = append(events, store.Event{ID: store.NewEventID(), State: store.Quarantined, Payload: make([]byte, size)})
		}
		return events
	}
	small := unknown(store.MaxQuarantined+300, 10)
	o.receive(small...)
	wantIDs(t, "small ones", o.list(store.EventFilter{State: store.Quarantined}), eventIDs(small[300:]))
	large := unknown(1, store.MaxQuarantinedSize)
	o.receive(large...)
	wantIDs(t, "the largest", o.list(store.EventFilter{}), eventIDs(large))
	o.receive(unknown(1, store.MaxQuarantinedSize+1)...)
	wantIDs(t, "one that is too large", o.list(store.EventFilter{}), nil)
}

func TestClosedOutboxSaysSo(t *testing.T) {
	o := openOutbox(t, redistest.Start(t), nil)
	o.must(o.Close())
	_, backlog := o.Backlog(t.Context())
	_, _, claim := o.Claim(t.Context(), "app_1", 1, time.Hour)
	_, bury := o.Bury(t.Context(), "app_1", time.Now(), "")
	_, event := o.Event(t.Context(), "evt_1")
	_, replay := o.Replay(t.Context(), []store.EventID{"evt_1"}, "")
	_, replayApp := o.Replay(t.Context(), nil, "app_1")
	errs := map[string]error{
		"receive": o.receiveEvents(t.Context(), outboxEvents("app_1", 1)), "backlog": backlog, "claim": claim,
		"settle": o.Settle(t.Context(), store.Claimed{}, store.Attempt{}), "bury": bury, "event": event,
		"replay": replay, "replay of an app": replayApp,
	}
	for _, err := range o.Events(t.Context(), store.EventFilter{}) {
		errs["events"] = cmp.Or(errs["events"], err)
	}
	for name, err := range errs {
		if !errors.Is(err, store.ErrClosed) {
			t.Errorf("%s: error %v, want ErrClosed", name, err)
		}
	}
	if len(errs) != 9 {
		t.Error("a list of events has no error")
	}
}
