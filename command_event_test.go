package gateway

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// receive puts events into the outbox, one after the other.
func receive(t *testing.T, s store.Store, events ...store.Event) {
	t.Helper()
	for _, e := range events {
		if _, err := s.Receive(t.Context(), []store.Event{e}, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// giveUp makes a dead letter of every pending event of an app.
func giveUp(t *testing.T, s store.Store, app tenant.AppID, reason string) {
	t.Helper()
	claimed, _, err := s.Claim(t.Context(), app, 100, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range claimed {
		if err := s.Settle(t.Context(), c, store.Attempt{Result: store.GivenUp, Error: reason}); err != nil {
			t.Fatal(err)
		}
	}
}

func pendingEvent(id store.EventID, app tenant.AppID, name tenant.Event) store.Event {
	return store.Event{ID: id, App: app, Name: name, State: store.Pending, Payload: []byte(`{"text":"private"}`)}
}

// eventLine is a command line on an outbox with events of all states: of app
// a, evt_1 and evt_2 are dead and evt_3 is pending; evt_4 of app b is pending;
// evt_5 is quarantined.
func eventLine(t *testing.T) (l *commandLine, s store.Store, a, b tenant.AppID) {
	t.Helper()
	l = newCommandLine(t)
	for _, id := range []*tenant.AppID{&a, &b} {
		*id = tenant.AppID(l.record("app", "create", "--account", "none", "--name", "A", "--webhook-url", "https://hooks.example/")["id"].(string))
	}
	s = l.open(true)
	receive(t, s, pendingEvent("evt_1", a, tenant.EventMessages), pendingEvent("evt_2", a, tenant.EventRead))
	giveUp(t, s, a, "status 500")
	receive(t, s, pendingEvent("evt_3", a, tenant.EventMessages), pendingEvent("evt_4", b, tenant.EventAccount),
		store.Event{ID: "evt_5", State: store.Quarantined, Payload: []byte("\x1b[2Jgarb\xffage"), LastError: "it is not JSON"})
	return l, s, a, b
}

func TestEventListShowsWhatIsNotDelivered(t *testing.T) {
	l, _, a, b := eventLine(t)
	all := []record{
		{"id": "evt_1", "app_id": string(a), "event": "messages", "state": "dead", "attempts": 1.0, "next_attempt_at": nil, "last_error": "status 500"},
		{"id": "evt_2", "app_id": string(a), "event": "read", "state": "dead", "attempts": 1.0, "next_attempt_at": nil, "last_error": "status 500"},
		{"id": "evt_3", "app_id": string(a), "event": "messages", "state": "pending", "attempts": 0.0, "last_error": nil},
		{"id": "evt_4", "app_id": string(b), "event": "account", "state": "pending", "attempts": 0.0, "last_error": nil},
		{"id": "evt_5", "app_id": nil, "event": nil, "state": "quarantined", "attempts": 0.0, "next_attempt_at": nil, "last_error": "it is not JSON"},
	}
	listed := l.records("event", "list")
	for _, event := range listed {
		if _, err := time.Parse(time.RFC3339, fmt.Sprint(event["received_at"])); err != nil {
			t.Error(err)
		}
		if event["state"] == "pending" {
			diff(t, event["received_at"], event["next_attempt_at"])
			delete(event, "next_attempt_at")
		}
	}
	diff(t, all, listed, "received_at")

	for args, want := range map[string][]int{
		"--app " + string(a):                     {0, 1, 2},
		"--app " + string(b):                     {3},
		"--state pending":                        {2, 3},
		"--state dead":                           {0, 1},
		"--state quarantined":                    {4},
		"--state pending --app " + string(a):     {2},
		"--state quarantined --app " + string(a): {},
	} {
		events := l.records(append([]string{"event", "list"}, strings.Fields(args)...)...)
		ids := []any{}
		for _, event := range events {
			ids = append(ids, event["id"])
		}
		wanted := []any{}
		for _, i := range want {
			wanted = append(wanted, all[i]["id"])
		}
		if fmt.Sprint(ids) != fmt.Sprint(wanted) {
			t.Errorf("%s: %v, want %v", args, ids, wanted)
		}
	}
	table := l.do("event", "list", "--state", "dead")
	if !strings.HasPrefix(table, "ID     APP_ID ") || strings.Count(table, "\n") != 3 {
		t.Errorf("people get %q", table)
	}
	diff(t, "no events\n", l.do("event", "list", "--app", string(b), "--state", "dead"))
	diff(t, "[]\n", l.do("event", "list", "--app", string(b), "--state", "dead", "--json"))
	if strings.Contains(l.printed.String(), "private") {
		t.Error("a list shows payloads")
	}
}

func TestPayloadIsShownOnlyWhereItIsAskedFor(t *testing.T) {
	l, s, a, _ := eventLine(t)
	shown := l.record("event", "show", "evt_1")
	diff(t, record{
		"id": "evt_1", "app_id": string(a), "event": "messages", "state": "dead", "attempts": 1.0, "next_attempt_at": nil, "last_error": "status 500",
	}, shown, "received_at")
	if text := l.do("event", "show", "evt_1"); strings.Contains(text, "private") || !strings.Contains(text, "status 500\n") {
		t.Errorf("people get %q", text)
	}

	shown["payload"] = record{"text": "private"}
	diff(t, shown, l.record("event", "show", "evt_1", "--payload"))
	if text := l.do("event", "show", "evt_1", "--payload"); !strings.HasSuffix(text, "\n\n{\n  \"text\": \"private\"\n}\n") {
		t.Errorf("people get %q", text)
	}

	garbage := l.record("event", "show", "evt_5", "--payload")
	diff(t, base64.StdEncoding.EncodeToString([]byte("\x1b[2Jgarb\xffage")), garbage["payload_base64"])
	if _, ok := garbage["payload"]; ok {
		t.Error("what is not JSON is shown as JSON, too")
	}
	if text := l.do("event", "show", "evt_5", "--payload"); !strings.HasSuffix(text, "\n\n?[2Jgarb\ufffdage\n") {
		t.Errorf("people get %q", text)
	}

	// A number that a float would change, and a string that is not UTF-8.
	receive(t, s,
		store.Event{ID: "evt_6", State: store.Quarantined, Payload: []byte("{\n\"n\": 12345678901234567890}"), LastError: "x"},
		store.Event{ID: "evt_7", State: store.Quarantined, Payload: []byte("\"\xff\""), LastError: "x"})
	if text := l.do("event", "show", "evt_6", "--payload", "--json"); !strings.HasSuffix(text, `,"payload":{"n":12345678901234567890}}`+"\n") {
		t.Errorf("the payload is printed as %q", text)
	}
	diff(t, "Iv8i", l.record("event", "show", "evt_7", "--payload")["payload_base64"])
}

func TestReplayedDeadLettersArePending(t *testing.T) {
	l, s, a, b := eventLine(t)
	state := func(id string) any {
		t.Helper()
		return l.record("event", "show", id)["state"]
	}
	diff(t, record{"replayed": 1.0}, l.record("event", "replay", "evt_2", "evt_2"))
	diff(t, "dead", state("evt_1"))
	replayed := l.record("event", "show", "evt_2")
	diff(t, record{"id": "evt_2", "app_id": string(a), "event": "read", "state": "pending", "attempts": 0.0}, replayed,
		"received_at", "next_attempt_at", "last_error")
	if replayed["next_attempt_at"] == nil {
		t.Error("it is not due")
	}

	giveUp(t, s, a, "status 500")
	diff(t, record{"replayed": 0.0}, l.record("event", "replay", "--app", string(b)))
	diff(t, "replayed  3\n", l.do("event", "replay", "--app", string(a)))
	diff(t, "pending", state("evt_1"))
	diff(t, record{"replayed": 0.0}, l.record("event", "replay", "--app", string(a)))

	giveUp(t, s, a, "status 500")
	diff(t, record{"replayed": 3.0}, l.record("event", "replay", "evt_1", "evt_2", "evt_3"))
}

func TestReplayTakesDeadLettersOnly(t *testing.T) {
	l, _, _, _ := eventLine(t)
	for id, stderr := range map[string]string{
		"evt_3": "event evt_3 is pending, not a dead letter\n",
		"evt_5": "event evt_5 is quarantined, not a dead letter\n",
		"evt_9": "no event with id evt_9\n",
	} {
		diff(t, result{1, "", stderr}, l.run("", "event", "replay", "evt_1", id, "--json"))
	}
	diff(t, 2, len(l.records("event", "list", "--state", "dead")))
}
