package caddytest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// callbackMember is the member biz_opaque_callback_data with JSON for a value.
func callbackMember(value string) string { return `"biz_opaque_callback_data":` + value }

// What a customer sends along comes back as the customer wrote it, and nothing
// of the gateway's with it. HOLD stands for the hold's id.
func TestTheCustomersCallbackDataIsGivenBackUntouched(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{}.withWebhooks().withPrices(t))
	endpoint := startReceiver(t)
	p := rich
	p.endpoint = endpoint
	who := g.tenant(t, p)
	want := make(map[string]int64)
	long := strings.Repeat("é", 512)
	for i, c := range []struct {
		name string
		// own is the customer's value in JSON, and "" is none; meta is how Meta writes
		// what it got, and delivered what comes of that: "" is no member at all.
		own, meta, delivered string
	}{
		{"none", "", `"HOLD"`, ""},
		{"null", "null", `"HOLD"`, ""},
		{"empty", `""`, `"HOLD:"`, ""},
		{"a word", `"own"`, `"HOLD:own"`, `"own"`},
		{"our own separator", `":own:"`, `"HOLD::own:"`, `":own:"`},
		{"escapes", `"\"\\\n\u0000/"`, `"HOLD:\"\\\n\u0000\/"`, `"\"\\\n\u0000\/"`},
		{"what is not ASCII", `"é😀"`, `"HOLD:\u00e9\ud83d\ude00"`, `"\u00e9\ud83d\ude00"`},
		{"what is not ASCII, as it is", `"é😀"`, `"HOLD:é😀"`, `"é😀"`},
		{"JSON", `"{\"a\":1}"`, `"HOLD:{\"a\":1}"`, `"{\"a\":1}"`},
		{"the longest", `"` + long + `"`, `"` + long + `"`, `"` + long + `"`},
		{"an escape in the hold's id", `"own"`, `"\u0068HOLD-h:own"`, `"own"`},
		{"an escaped separator", `"own"`, `"HOLD\u003aown"`, `"own"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var members []string
			if c.own != "" {
				members = []string{callbackMember(c.own)}
			}
			m := g.sendTemplate(t, who, g.recipient(accepted), members...)
			hold := holdID.FindString(m.callback)
			if (hold == "") != (c.name == "the longest") {
				t.Fatalf("Meta got %q", m.callback)
			}
			meta := strings.ReplaceAll(c.meta, "HOLD-h", strings.TrimPrefix(hold, "h"))
			meta = strings.ReplaceAll(meta, "HOLD", hold)
			var got string
			if err := json.Unmarshal([]byte(meta), &got); err != nil || got != m.callback {
				t.Fatalf("the test's %q is not what Meta got: %q", meta, m.callback)
			}
			reported := status(m.id, "delivered", m.recipient, callbackMember(meta), priced(true, "marketing"))
			given := status(m.id, "delivered", m.recipient, priced(true, "marketing"))
			if c.delivered != "" {
				given = status(m.id, "delivered", m.recipient, callbackMember(c.delivered), priced(true, "marketing"))
			}
			// Twice in one change, beside a status of somebody else's message.
			other := status("wamid.elsewhere", "sent", "49", callback("own"))
			g.report(t, notification(who.waba, statuses(who, reported, other, reported)))
			taken := endpoint.await(t, i+1)
			if want := notification(who.waba, statuses(who, given, other, given)); taken[i].body != want {
				t.Errorf("delivered was %s\nand not       %s", g.masked(taken[i].body), g.masked(want))
			}
			want[m.id] = marketingFee
		})
	}
	g.wantFees(t, who, want)
}

// A long value of the customer's leaves no room for the hold's id. The template
// is charged by its message then, even where that is not known yet.
func TestATemplateWithoutHoldIDIsChargedEvenIfItsStatusComesFirst(t *testing.T) {
	t.Parallel()
	meta := startArrivals(t)
	s := settings{}.withWebhooks().withPrices(t)
	s.proxy = "reverse_proxy " + meta.address
	g := startGateway(t, s)
	endpoint := startReceiver(t)
	p := rich
	p.endpoint = endpoint
	who := g.tenant(t, p)
	meta.hold(t, who, withJSON("200 OK", acceptance)) // as wamid.accepted
	long := callback(strings.Repeat("x", 512))
	wait := g.asynchronously(t, who.key, g.template(accepted, "offer", long))
	<-meta.arrived
	raw := statuses(who, status("wamid.accepted", "delivered", "49151", priced(true, "marketing"), long))
	for range 2 {
		g.report(t, notification(who.waba, raw))
	}
	if taken := endpoint.await(t, 2); taken[0].body != notification(who.waba, raw) {
		t.Error("the status was not delivered as it came")
	}
	if fees := g.fees(t, who); len(fees) != 0 {
		t.Errorf("charged before the message is known: %v", fees)
	}
	<-meta.answer
	if a, err := wait(); err != nil || a.status != http.StatusOK {
		t.Fatalf("status %d, %v", a.status, err)
	}
	g.wantFees(t, who, map[string]int64{"wamid.accepted": marketingFee})
	g.report(t, notification(who.waba, raw))
	g.wantFees(t, who, map[string]int64{"wamid.accepted": marketingFee})
}

// Whoever knows the id of somebody else's hold can neither settle it with it nor
// have it charged, and gets it back as any other text.
func TestSomebodyElsesHoldIDIsJustAText(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{}.withWebhooks().withReports().withPrices(t))
	victim := g.tenant(t, rich)
	g.send(t, victim.key, g.template("9002", "offer")).wantCode(t, "GW_001") // and is in doubt
	var hold string
	for id := range g.openHolds(t, victim.account) {
		hold = "hold_" + id
	}
	before := g.ledger(t, victim.account)

	endpoint := startReceiver(t)
	p := rich
	p.endpoint = endpoint
	attacker := g.tenant(t, p)
	want := make(map[string]int64)
	reports := 0
	for _, own := range []string{
		hold, hold + ":", hold + ":own", // behind a hold of the attacker's own
		hold + ":" + strings.Repeat("x", 512-len(hold)-1), // without one
	} {
		a := g.send(t, attacker.key, g.template(accepted, "offer", callback(own)))
		a.wantCode(t, "")
		want[a.messageID()] = marketingFee
		reports += 3
		g.awaitReports(t, reports)
		for _, d := range endpoint.await(t, reports)[reports-3:] {
			if !strings.Contains(d.body, callback(own)) {
				t.Errorf("%d characters were sent along, and not given back: %s", len(own), g.masked(d.body))
			}
		}
	}
	// Without the gateway's part, as only Meta could report it.
	raw := statuses(attacker, status("wamid.elsewhere", "delivered", "49151", priced(true, "marketing"), callback(hold+":own")))
	g.report(t, notification(attacker.waba, raw))
	if taken := endpoint.await(t, reports+1); taken[reports].body != notification(attacker.waba, raw) {
		t.Errorf("delivered was %s", taken[reports].body)
	}
	g.wantFees(t, attacker, want)
	if now := g.ledger(t, victim.account); len(now) != len(before) || len(g.openHolds(t, victim.account)) != 1 {
		t.Errorf("%d entries were made in the other's ledger", len(now)-len(before))
	}
}

// Two apps may share a number, and the statuses of what one of them has sent go
// to both: the hold's id to neither.
func TestTheHoldIDIsTakenOutForEveryAppOfTheNumber(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{}.withWebhooks().withPrices(t))
	one, other := startReceiver(t), startReceiver(t)
	p := rich
	p.endpoint = one
	who := g.tenant(t, p)
	p.endpoint, p.phone, p.waba = other, who.phone, who.waba
	neighbour := g.tenant(t, p)
	m := g.sendTemplate(t, who, g.recipient(accepted), callback("own"))
	g.report(t, notification(who.waba, statuses(who, m.status("delivered", priced(true, "marketing")))))
	for _, endpoint := range []*receiver{one, other} {
		if d := endpoint.one(t); strings.Contains(d.body, "hold_") || !strings.Contains(d.body, callback("own")) {
			t.Errorf("delivered was %s", g.masked(d.body))
		}
	}
	g.wantFees(t, who, map[string]int64{m.id: marketingFee})
	g.wantFees(t, neighbour, map[string]int64{})
}

// A message is paid for by who has sent it, wherever its number is by then.
func TestAStatusCountsAfterTheNumberHasLeftTheApp(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{}.withWebhooks().withPrices(t))
	who := g.tenant(t, rich)
	m := g.sendTemplate(t, who, g.recipient(accepted), callback("own"))
	g.run(t, "app", "set", who.app, "--phone-number-id", "", "--waba-id", "")
	raw := statuses(who, m.status("delivered", priced(true, "marketing")))
	eventually(t, "the number to be nobody's", func() error {
		g.report(t, notification(who.waba, raw))
		if len(g.stored(t)) == 0 {
			return fmt.Errorf("it is not yet")
		}
		return nil
	})
	g.wantFees(t, who, map[string]int64{m.id: marketingFee})
	if e := g.stored(t)[0]; e.State != "quarantined" || strings.Contains(e.Payload, "hold_") || !strings.Contains(e.Payload, callback("own")) {
		t.Errorf("%s: %s", e.State, g.masked(e.Payload))
	}
}
