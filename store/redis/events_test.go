package redis

import (
	"fmt"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
	"github.com/connexease/caddy-whatsapp-gateway/store/storetest"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

func TestHostileTextsComeBackAsTheyWere(t *testing.T) {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	o := openOutbox(t, redistest.Start(t), storetest.NewClock())
	for i, text := range []string{"", string(every), "\r\n*1\r\n$8\r\nFLUSHALL\r\n", "$-1\r\n", "\xff\xfe{}", "1e400", "nil", "]] return 1 --"} {
		app := tenant.AppID(fmt.Sprintf("app_%d {x}:%s", i, text))
		e := outboxEvents(app, 1)[0]
		e.Name, e.Payload, e.ID = tenant.Event("name "+text), []byte(text), e.ID+store.EventID(text)
		o.receive(e)
		next := o.clock.Now().Add(time.Microsecond)
		o.settle(app, 1, store.Attempt{Result: store.Failed, NextAttemptAt: next, Error: text})
		want := e
		want.Attempts, want.ReceivedAt, want.NextAttemptAt, want.LastError = 1, o.clock.Now(), next, text
		got, err := o.Event(t.Context(), e.ID)
		o.must(err)
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Errorf("event %d (-want +got):\n%s", i, diff)
		}
		o.clock.Advance(time.Microsecond)
		if got := o.claim(app, 1); len(got) != 1 || gocmp.Diff(want, got[0].Event) != "" {
			t.Errorf("claimed event %d is not what it was", i)
		}
	}
}

func TestEventsOfAllPlacesAreMerged(t *testing.T) {
	o := openOutbox(t, redistest.Start(t, "appendfsync no"), storetest.NewClock())
	var want []store.Event
	for i := range 400 {
		e := outboxEvents(tenant.AppID(fmt.Sprintf("app_%d", i%40)), 1)
		o.receive(e...)
		want = append(want, e...)
	}
	one := outboxEvents("app_7", eventsLooked+eventPage)
	o.receive(one...)
	wantIDs(t, "all events", o.list(store.EventFilter{}), eventIDs(append(want, one...)))
	o.settle("app_7", 10, store.Attempt{Result: store.GivenUp})
	// The others of the place fill more than a page.
	last := outboxEvents("app_7", 1)
	o.receive(last...)
	if n, err := o.Bury(t.Context(), "app_7", o.clock.Now().Add(time.Second), "gone"); err != nil || n != len(one)+1 {
		t.Fatalf("%d buried, error %v", n, err)
	}
	dead := o.list(store.EventFilter{State: store.Dead})
	if first := slices.IndexFunc(want, func(e store.Event) bool { return e.App == "app_7" }); dead[0] != want[first].ID {
		t.Error("the oldest dead letter is not the first")
	}
	if got := dead[len(dead)-1]; got != last[0].ID {
		t.Error("the newest dead letter is not the last")
	}
	// Behind so many dead letters, there is one that is pending.
	newest := outboxEvents("app_7", 1)
	o.receive(newest...)
	pending := slices.DeleteFunc(want, func(e store.Event) bool { return e.App == "app_7" })
	wantIDs(t, "pending events", o.list(store.EventFilter{State: store.Pending}), eventIDs(append(pending, newest...)))
}
