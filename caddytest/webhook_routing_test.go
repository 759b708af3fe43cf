package caddytest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// arrived is what came of a webhook at the endpoints: the names of the events,
// by whose they are.
type arrived map[string][]string

// endpoints is a set of endpoints with names for people.
type endpoints map[string]*receiver

// since returns what has arrived beyond the first so many deliveries of each endpoint.
func (a endpoints) since(before map[string]int) arrived {
	got := make(arrived)
	for name, endpoint := range a {
		for _, d := range endpoint.received()[before[name]:] {
			got[name] = append(got[name], d.event)
		}
	}
	return got
}

func (a endpoints) counts() map[string]int {
	n := make(map[string]int)
	for name, endpoint := range a {
		n[name], _ = endpoint.counted()
	}
	return n
}

// kinds are what Meta reports, as far as it says so, and what it is to those
// who subscribe. Those with members have a phone number id, the others do not.
var kinds = []struct{ name, field, members, event string }{
	{"text", "messages", `"contacts":[{"profile":{"name":"Zoë"},"wa_id":"49"}],"messages":[{"from":"49","id":"wamid.1","timestamp":"1","type":"text","text":{"body":"x"}}]`, "messages"},
	{"message of a business-scoped user", "messages", `"contacts":[{"profile":{},"user_id":"US.1"}],"messages":[{"from_user_id":"US.1","id":"wamid.1","type":"text","text":{"body":"x"}}]`, "messages"},
	{"reaction", "messages", `"messages":[{"from":"49","id":"wamid.1","type":"reaction","reaction":{"emoji":"\ud83d\udc4d"}}]`, "messages"},
	{"unsupported message", "messages", `"messages":[{"from":"49","id":"wamid.1","type":"unsupported","errors":[{"code":131051}]}]`, "messages"},
	{"errors alone", "messages", `"errors":[{"code":131000,"title":"Something went wrong"}]`, "account"},
	{"nothing", "messages", `"contacts":[],"messages":[],"statuses":[]`, "account"},
	{"sent", "messages", `"statuses":[` + status("wamid.1", "sent", "49") + `]`, "message_status"},
	{"delivered", "messages", `"statuses":[` + status("wamid.1", "delivered", "49") + `]`, "message_status"},
	{"failed", "messages", `"statuses":[` + status("wamid.1", "failed", "49", `"errors":[{"code":131026}]`) + `]`, "message_status"},
	{"played", "messages", `"statuses":[` + status("wamid.1", "played", "49") + `]`, "message_status"},
	{"a status that is new", "messages", `"statuses":[` + status("wamid.1", "pondered", "49") + `]`, "message_status"},
	{"read", "messages", `"statuses":[` + status("wamid.1", "read", "49") + `]`, "read"},
	{"read, twice", "messages", `"statuses":[` + status("wamid.1", "read", "49") + "," + status("wamid.2", "read", "49") + `]`, "read"},
	{"delivered and read", "messages", `"statuses":[` + status("wamid.1", "read", "49") + "," + status("wamid.2", "delivered", "49") + `]`, "message_status"},
	{"message and status", "messages", `"statuses":[` + status("wamid.1", "sent", "49") + `],"messages":[{"from":"49","id":"wamid.2"}]`, "messages"},
	{"message and read", "messages", `"messages":[{"from":"49","id":"wamid.2"}],"statuses":[` + status("wamid.1", "read", "49") + `]`, "messages"},

	{"user preferences", "user_preferences", `"user_preferences":[{"wa_id":"49","category":"marketing_messages","value":"stop"}]`, "account"},
	{"echoes", "smb_message_echoes", `"message_echoes":[{"from":"1","to":"49","id":"wamid.1","type":"text","text":{"body":"x"}}]`, "account"},
	{"history", "history", `"history":[{"metadata":{"phase":1},"threads":[]}]`, "account"},
	{"flows", "flows", `"event":"FLOW_STATUS_CHANGE"`, "account"},
	{"group", "group_lifecycle_update", `"groups":[{"group_id":"1"}]`, "account"},
	{"group participants", "group_participants_update", `"groups":[]`, "account"},

	{"template status", "message_template_status_update", "", "message_template_status"},
	{"template quality", "message_template_quality_update", "", "message_template_status"},
	{"template category", "template_category_update", "", "message_template_status"},
	{"account", "account_update", "", "account"},
	{"account review", "account_review_update", "", "account"},
	{"account alerts", "account_alerts", "", "account"},
	{"capability", "business_capability_update", "", "account"},
	{"number's name", "phone_number_name_update", "", "account"},
	{"number's quality", "phone_number_quality_update", "", "account"},
	{"security", "security", "", "account"},
	{"a field that is new", "telepathy", "", "account"},
}

// Of three apps with a WABA in common one has no endpoint; a fourth is elsewhere.
func TestEveryKindOfChangeGoesToItsAppsUnderItsName(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{}.withWebhooks())
	at := endpoints{"first": startReceiver(t), "second": startReceiver(t), "elsewhere": startReceiver(t)}
	const waba, otherWABA = "2000001", "2000002"
	first := g.tenant(t, profile{waba: waba, endpoint: at["first"]})
	g.tenant(t, profile{waba: waba, endpoint: at["second"]})
	without := g.tenant(t, profile{waba: waba})
	g.tenant(t, profile{waba: otherWABA, endpoint: at["elsewhere"]})
	for _, c := range kinds {
		t.Run(c.name, func(t *testing.T) {
			raw := `{"field":"` + c.field + `","value":{"event":"X","display_phone_number":"1"}}`
			want := arrived{"first": {c.event}, "second": {c.event}}
			if c.members != "" {
				raw = change(c.field, first.phone, c.members)
				delete(want, "second")
			}
			before := at.counts()
			g.report(t, notification(waba, raw))
			g.awaitDelivered(t)
			if diff := cmp.Diff(want, at.since(before)); diff != "" {
				t.Error(diff)
			}
			for name := range want {
				all := at[name].received()
				if got := all[len(all)-1].body; got != notification(waba, raw) {
					t.Errorf("the %s got %s", name, got)
				}
			}
		})
	}
	before := at.counts()
	g.report(t, notification(waba, change("messages", without.phone, `"messages":[{"id":"wamid.1"}]`)))
	if got := at.since(before); len(got) != 0 || len(g.stored(t)) != 0 {
		t.Errorf("the event of an app without endpoint arrived at %v, or is kept", got)
	}
}

func TestAnAppGetsWhatItHasSubscribedTo(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{}.withWebhooks())
	all := startReceiver(t)
	const waba = "2000003"
	phone := g.tenant(t, profile{waba: waba, endpoint: all}).phone
	changes := []string{
		change("messages", phone, `"messages":[{"id":"wamid.1"}]`),
		change("messages", phone, `"statuses":[`+status("wamid.1", "sent", "49")+`]`),
		change("messages", phone, `"statuses":[`+status("wamid.1", "read", "49")+`]`),
		change("messages", phone, `"statuses":[`+status("wamid.1", "read", "49")+","+status("wamid.1", "sent", "49")+`]`),
		change("messages", phone, `"messages":[{"id":"wamid.1"}],"statuses":[`+status("wamid.1", "read", "49")+`]`),
		change("messages", phone, `"messages":[{"id":"wamid.1"}],"statuses":[`+status("wamid.1", "sent", "49")+`]`),
		`{"field":"message_template_status_update","value":{}}`,
		`{"field":"security","value":{}}`,
	}
	// What each change is called, by what the app has subscribed to; "" is not at all.
	subscriptions := []struct {
		events string
		names  [8]string
	}{
		{"messages", [8]string{"messages", "", "", "", "messages", "messages"}},
		{"message_status", [8]string{"", "message_status", "", "message_status", "", "message_status"}},
		{"read", [8]string{"", "", "read", "read", "read", ""}},
		{"message_template_status", [8]string{6: "message_template_status"}},
		{"account", [8]string{7: "account"}},
		{"messages,message_status", [8]string{"messages", "message_status", "", "message_status", "messages", "messages"}},
		{"read,message_status", [8]string{"", "message_status", "read", "message_status", "read", "message_status"}},
		{"account,messages", [8]string{0: "messages", 4: "messages", 5: "messages", 7: "account"}},
		{"all", [8]string{"messages", "message_status", "read", "message_status", "messages", "messages", "message_template_status", "account"}},
	}
	at := make([]*receiver, len(subscriptions))
	for i, s := range subscriptions {
		at[i] = startReceiver(t)
		g.tenant(t, profile{phone: phone, waba: waba, endpoint: at[i], events: s.events})
	}
	g.report(t, notification(waba, changes...))
	g.awaitDelivered(t)
	for i, s := range subscriptions {
		var got [8]string
		for _, d := range at[i].received() {
			k := slices.IndexFunc(changes, func(raw string) bool { return d.body == notification(waba, raw) })
			if k < 0 || got[k] != "" {
				t.Fatalf("%s: got something else, or twice: %s", s.events, d.body)
			}
			got[k] = d.event
		}
		if diff := cmp.Diff(s.names, got); diff != "" {
			t.Errorf("%s: %s", s.events, diff)
		}
	}
}

func TestChangesOfNobodyAreQuarantinedWithTheirReason(t *testing.T) {
	t.Parallel()
	g, endpoint, who := startWithEndpoint(t)
	own := g.userMessage(who)
	long := strings.Repeat("1", 65)
	for _, c := range []struct{ name, body, reason string }{
		{"number that nobody has", notification(who.waba, change("messages", "99", `"messages":[{}]`)), "no app has this phone number id"},
		{"WABA that nobody has", notification("98", `{"field":"security","value":{}}`), "no app has this WABA id"},
		{"no number and no WABA", `{"object":"x","entry":[{"changes":[{"field":"security","value":{}}]}]}`, "The change names neither a phone number nor a business account."},
		{"not an object", notification(who.waba, `"messages"`), "The change is not a JSON object."},
		{"no field", notification(who.waba, `{"value":{}}`), `The change has no text as "field".`},
		{"two fields", notification(who.waba, strings.Replace(own, `"field"`, `"field":"x","field"`, 1)), `The change has "field" twice.`},
		{"two values", notification(who.waba, strings.Replace(own, `"value"`, `"value":{},"value"`, 1)), `The change has "value" twice.`},
		{"two metadata", notification(who.waba, strings.Replace(own, `"metadata"`, `"metadata":{},"metadata"`, 1)), `The change has "metadata" twice.`},
		{"two numbers", notification(who.waba, strings.Replace(own, `"phone_number_id"`, `"phone_number_id":"99","phone_number_id"`, 1)), `The change has "phone_number_id" twice.`},
		{"long number", notification(who.waba, change("messages", long, "")), "The id of the change's phone number is over 64 bytes long."},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := len(g.stored(t))
			g.report(t, c.body)
			events := g.stored(t)
			if len(events) != before+1 {
				t.Fatalf("%d events are in the outbox, %d were", len(events), before)
			}
			e := events[before]
			if e.State != "quarantined" || e.LastError != c.reason || e.AppID != "" || e.Event != "" {
				t.Errorf("%+v", e)
			}
			if e.Payload != c.body {
				t.Errorf("kept was %s", g.masked(e.Payload))
			}
		})
	}
	// What is wrong with one change makes no difference to those beside it.
	before := len(g.stored(t))
	g.report(t, notification(who.waba, change("messages", "99", ""), own, "[]"))
	if d := endpoint.one(t); d.body != notification(who.waba, own) {
		t.Error("another change was delivered")
	}
	g.awaitDelivered(t)
	if now := len(g.stored(t)); now != before+2 {
		t.Errorf("%d events are in quarantine, %d were", now, before)
	}
}

// What is delivered has Meta's bytes, whatever reads them on the way.
func TestAChangeIsDeliveredByteForByte(t *testing.T) {
	t.Parallel()
	g, endpoint, who := startWithEndpoint(t)
	phone := who.phone
	escaped := fmt.Sprintf(`\u%04x%s`, phone[0], phone[1:])
	for _, raw := range []string{
		"{ \"value\" :\t{\r\n\"metadata\":{ \"phone_number_id\" : \"" + phone + "\" } , \"messages\" : [ { } ] } ,\n \"field\" : \"messages\" }",
		`{"field":"m\u0065ssages","v\u0061lue":{"metadat\u0061":{"phone_number_id":"` + escaped + `"},"messages":[{"a":"\u00e9\/\ud83d\ude00\n<&>"}]}}`,
		`{"field":"messages","value":{"metadata":{"phone_number_id":"` + phone + `"},"messages":[{"n":[1.0,1e400,-0,123456789012345678901234567890],"x":1,"x":2,"":null}]}}`,
		`{"x":{"field":"security"},"field":"messages","x":"é` + "\u2028\x7f" + `","value":{"new":{"metadata":{"phone_number_id":"99"}},"metadata":{"phone_number_id":"` + phone + `"},"messages":[[]]}}`,
		`{"field":"messages","value":{"metadata":{"phone_number_id":` + phone + `},"messages":["` + "\xff\xfe" + `","\ud800"]}}`,
	} {
		before, _ := endpoint.counted()
		// The rest of the envelope is made anew, and has what Meta had in it.
		g.report(t, " { \"entry\" : [ { \"changes\" : [ "+raw+" ] , \"time\" : 1760000000 , \"id\" : \"1\\u0032\" } ] , \"x\":1, \"object\" : \"what\\u0073app\" } \n")
		taken := endpoint.await(t, before+1)
		want := `{"object":"what\u0073app","entry":[{"id":"1\u0032","time":1760000000,"changes":[` + raw + `]}]}`
		if got := taken[before]; got.body != want || got.event != "messages" {
			t.Errorf("event %s\ngot  %q\nwant %q", got.event, got.body, want)
		}
	}
}

func TestAWebhookOfManyChangesIsOneEventForEach(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{}.withWebhooks())
	const waba = "2000004"
	one, other := startReceiver(t), startReceiver(t)
	first := g.tenant(t, profile{waba: waba, endpoint: one})
	second := g.tenant(t, profile{waba: waba, endpoint: other})
	const changes = 1000
	var all, firsts, seconds []string
	for i := range changes {
		who, wants := first, &firsts
		if i%3 == 0 {
			who, wants = second, &seconds
		}
		raw := statuses(who, status(fmt.Sprint("wamid.", i), "sent", "49"))
		all = append(all, raw)
		*wants = append(*wants, notification(waba, raw))
	}
	g.report(t, notification(waba, all...))
	for endpoint, want := range map[*receiver][]string{one: firsts, other: seconds} {
		var got []string
		ids := make(map[string]bool)
		for _, d := range endpoint.await(t, len(want)) {
			got = append(got, d.body)
			ids[d.id] = true
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) || len(ids) != len(want) {
			t.Errorf("%d events with %d ids were delivered, want %d", len(got), len(ids), len(want))
		}
	}
	g.awaitDelivered(t)
}

// An app that moves to another number gets that one's events from then on.
func TestEventsFollowAnAppToItsNewNumber(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{}.withWebhooks())
	before, after := startReceiver(t), startReceiver(t)
	who := g.tenant(t, profile{endpoint: before})
	other := g.tenant(t, profile{endpoint: after})
	g.report(t, notification(who.waba, g.userMessage(who)))
	before.await(t, 1)
	g.run(t, "app", "set", who.app, "--phone-number-id", "77")
	g.run(t, "app", "set", other.app, "--phone-number-id", who.phone)
	body := notification(who.waba, g.userMessage(who))
	eventually(t, "an event at the number's new app", func() error {
		g.report(t, body)
		if attempts, _ := after.counted(); attempts == 0 {
			return fmt.Errorf("none has come")
		}
		return nil
	})
	g.awaitDelivered(t)
	n, _ := before.counted()
	_, taken := after.counted()
	g.report(t, body)
	after.await(t, taken+1)
	g.awaitDelivered(t)
	if now, _ := before.counted(); now != n {
		t.Error("the number's old app gets its events, too")
	}
}
