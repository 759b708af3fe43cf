package caddytest

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Meta's statuses tell what its answers did not. None of these sends waits for
// the in-doubt policy, which is a day away.
func TestSendsInDoubtAreSettledByTheirStatuses(t *testing.T) {
	t.Parallel()
	s := settings{site: under("impatient", "upstream_timeout 300ms\nreverse_proxy {$SIMULATOR}")}.withWebhooks().withReports().withPrices(t)
	g := startGateway(t, s)
	endpoint := startReceiver(t)
	p := rich
	p.endpoint = endpoint
	who := g.tenant(t, p)
	lost := []string{"9102", "9103", "9108", "9110"} // accepted, and the answer does not arrive
	for _, digits := range lost {
		for _, body := range []string{
			g.message(digits), g.template(digits, "offer"), g.template(digits, "offer", callback("own")),
		} {
			g.sendTo(t, "/impatient"+messagePath, who.key, body).wantCode(t, "GW_001")
		}
	}
	sends := 3 * len(lost)
	g.awaitReports(t, 3*sends)
	g.wantBalance(t, who.account, balance{
		available: 100_000_000 - int64(sends)*fee - int64(2*len(lost))*marketingFee,
		captured:  int64(sends)*fee + int64(2*len(lost))*marketingFee,
	})
	if a := g.audit(t, g, who); a.captured != sends || a.accepted != sends || a.unnamed != 0 {
		t.Errorf("%d sends: %+v", sends, a)
	}
	if fees := g.fees(t, who); len(fees) != 2*len(lost) {
		t.Errorf("%d templates were charged", len(fees))
	}
	if n := g.metric(t, "settled_by_status_total"); int(n) != sends {
		t.Errorf("%v sends in doubt were counted", n)
	}
	for _, d := range endpoint.await(t, 3*sends) {
		if strings.Contains(d.body, "hold_") {
			t.Error("a hold's id was delivered")
		}
	}
	// Of what Meta has refused there is no status, and it stays in doubt.
	for _, digits := range []string{"9002", "9003", "9004"} {
		g.sendTo(t, "/impatient"+messagePath, who.key, g.template(digits, "offer")).wantCode(t, "GW_001")
	}
	if open := g.openHolds(t, who.account); len(open) != 3 {
		t.Errorf("%d holds are open", len(open))
	}
}

// Any status proves that Meta has accepted the message.
func TestAnyStatusSettlesASendInDoubt(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{}.withWebhooks())
	who := g.tenant(t, rich)
	for i, state := range []string{"sent", "delivered", "read", "failed", "played", "pondered"} {
		g.send(t, who.key, g.message("9102")).wantCode(t, "GW_001")
		m := g.tally(t).Messages[i]
		g.report(t, notification(who.waba, statuses(who, status(m.ID, state, "49151", callback(m.CallbackData)))))
		if open := g.openHolds(t, who.account); len(open) != 0 {
			t.Errorf("%s: %d holds are open", state, len(open))
		}
	}
	if a := g.audit(t, g, who); a.captured != 6 || a.unnamed != 0 {
		t.Errorf("%+v", a)
	}
}

// kindsOf returns the kinds of ledger entries, in their order.
func kindsOf(ledger []ledgerEntry) (kinds []string) {
	for _, e := range ledger {
		kinds = append(kinds, e.Kind)
	}
	return kinds
}

// A status that comes after the policy has given the fee back has it held and
// captured again, once, and the books say so.
func TestAStatusAfterTheReleaseChargesAgain(t *testing.T) {
	t.Parallel()
	s := settings{app: "in_doubt 1s release", handler: "upstream_timeout 900ms"}.withWebhooks().withPrices(t)
	g := startGateway(t, s)
	who := g.tenant(t, rich)
	g.send(t, who.key, g.template("9102", "offer", callback("own"))).wantCode(t, "GW_001")
	g.awaitNoHolds(t, who)
	if diff := cmp.Diff([]string{"credit", "hold", "release"}, kindsOf(g.ledger(t, who.account))); diff != "" {
		t.Fatal(diff)
	}
	sent := g.tally(t).Messages[0]
	hold := holdID.FindString(sent.CallbackData)
	report := func(state, price string) {
		raw := statuses(who, status(sent.ID, state, "49151", callback(sent.CallbackData), price))
		g.report(t, notification(who.waba, raw, raw))
	}
	var running sync.WaitGroup
	for range 8 {
		running.Go(func() { report("sent", priced(false, "marketing")) })
	}
	running.Wait()
	ledger := g.ledger(t, who.account)
	if diff := cmp.Diff([]string{"credit", "hold", "release", "hold", "capture"}, kindsOf(ledger)); diff != "" {
		t.Fatal(diff)
	}
	again, _ := strings.CutPrefix(ledger[3].ID, "hold_")
	if ledger[1].ID != hold || ledger[3].ID == hold || ledger[4].ID != "capture_"+again || ledger[4].MessageID != sent.ID {
		t.Errorf("%+v", ledger[1:])
	}
	g.wantFees(t, who, map[string]int64{})
	g.wantBalance(t, who.account, balance{available: 100_000_000 - fee, captured: fee})
	for _, state := range []string{"delivered", "read", "delivered"} {
		report(state, priced(true, "marketing"))
	}
	g.wantFees(t, who, map[string]int64{sent.ID: marketingFee})
	g.wantBalance(t, who.account, balance{available: 100_000_000 - fee - marketingFee, captured: fee + marketingFee})
	if n := g.metric(t, "settled_by_status_total"); n != 1 {
		t.Errorf("%v sends in doubt were counted", n)
	}
}

// What the policy has captured is not captured again, and its template is charged.
func TestAStatusAfterThePolicysCaptureChargesTheTemplateAlone(t *testing.T) {
	t.Parallel()
	s := settings{app: "in_doubt 1s capture", handler: "upstream_timeout 900ms"}.withWebhooks().withPrices(t)
	g := startGateway(t, s)
	who := g.tenant(t, rich)
	g.send(t, who.key, g.template("9102", "offer")).wantCode(t, "GW_001")
	g.awaitNoHolds(t, who)
	sent := g.tally(t).Messages[0]
	for _, state := range []string{"sent", "read", "delivered"} {
		g.report(t, notification(who.waba, statuses(who,
			status(sent.ID, state, "49151", callback(sent.CallbackData), priced(true, "marketing")))))
	}
	if diff := cmp.Diff([]string{"credit", "hold", "capture", "template_fee"}, kindsOf(g.ledger(t, who.account))); diff != "" {
		t.Error(diff)
	}
	g.wantFees(t, who, map[string]int64{sent.ID: marketingFee})
}

// A status may be there before the send's own answer, and both say the same.
func TestAStatusBeforeTheAnswerIsCapturedOnce(t *testing.T) {
	t.Parallel()
	meta := startArrivals(t)
	s := settings{}.withWebhooks().withPrices(t)
	s.proxy = "reverse_proxy " + meta.address
	g := startGateway(t, s)
	who := g.tenant(t, rich)
	for name, c := range map[string]struct {
		answer script
		code   string
	}{
		"an acceptance":       {withJSON("200 OK", acceptance), ""},
		"none":                {reset, "GW_001"},
		"what is not to read": {withJSON("200 OK", "{"), "GW_001"},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(g.ledger(t, who.account))
			meta.hold(t, who, c.answer)
			wait := g.asynchronously(t, who.key, g.message(accepted))
			<-meta.arrived
			requests := meta.received(who)
			hold := holdID.FindString(requests[len(requests)-1].body)
			g.report(t, notification(who.waba, statuses(who, status("wamid.accepted", "sent", "49151", callback(hold)))))
			<-meta.answer
			a, err := wait()
			if err != nil {
				t.Fatal(err)
			}
			a.wantCode(t, c.code)
			got := g.ledger(t, who.account)[before:]
			if diff := cmp.Diff([]string{"hold", "capture"}, kindsOf(got)); diff != "" || got[1].MessageID != "wamid.accepted" {
				t.Errorf("%s %+v", diff, got)
			}
		})
	}
	g.wantFees(t, who, map[string]int64{})
	if strings.Contains(g.output(), "a hold could not be settled") {
		t.Error("the second of the two is logged as an error")
	}
}

// Should Meta's answer be a refusal and a status say otherwise, the status counts.
func TestAStatusOfWhatMetaRefusedChargesAgain(t *testing.T) {
	t.Parallel()
	meta := startUpstream(t)
	g := behind(t, meta, settings{}.withWebhooks())
	who := g.tenant(t, rich)
	meta.play(who, withJSON("500 Oops", `{"error":{"message":"Service unavailable","type":"OAuthException","code":131016}}`))
	g.send(t, who.key, g.message(accepted)).wantCode(t, "GW_001")
	hold := holdID.FindString(meta.one(t, who).body)
	for i := range 2 {
		g.report(t, notification(who.waba, statuses(who, status(fmt.Sprint("wamid.", i), "delivered", "49151", callback(hold)))))
	}
	if diff := cmp.Diff([]string{"credit", "hold", "release", "hold", "capture"}, kindsOf(g.ledger(t, who.account))); diff != "" {
		t.Error(diff)
	}
	g.wantFees(t, who, map[string]int64{})
}
