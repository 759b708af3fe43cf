package caddytest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// rateCard has a price for each case of the tests. Recipients are German, but
// where a test says otherwise.
const rateCard = `# a comment
market,calling_codes,category,price,currency,effective_from
Germany,49,marketing,0.05,USD,2019-01-01
Germany,49,marketing,0.11,USD,2024-01-01
Germany,49,marketing,9.99,USD,2199-01-01
Germany,49,marketing,0.10,EUR,2024-01-01
Germany,49,utility,0.03,USD,2024-01-01
Germany,49,marketing_lite,0.07,USD,2024-01-01
Germany,49,authentication_international,0.02,USD,2024-01-01
Munich,4989,marketing,0.12,USD,2024-01-01
default,,marketing,0.50,USD,2024-01-01
default,,default,0.60,USD,2024-01-01
`

// What a template costs by that card, in micro-units.
const (
	marketingFee = 110_000
	utilityFee   = 30_000
	liteFee      = 70_000
	abroadFee    = 20_000
	munichFee    = 120_000
	elsewhereFee = 500_000
	unknownFee   = 600_000
)

// rich is a tenant who can pay for templates.
var rich = profile{credit: "100.00"}

// withPrices are the settings with that rate card.
func (s settings) withPrices(t testing.TB) settings {
	t.Helper()
	file := filepath.Join(t.TempDir(), "rates.csv")
	if err := os.WriteFile(file, []byte(rateCard), 0o600); err != nil {
		t.Fatal(err)
	}
	s.app += "\nrate_card " + file
	return s
}

// template returns the body of a template message; members stand behind the rest.
func (g *gateway) template(fate, name string, members ...string) string {
	return templateTo(g.recipient(fate), name, members...)
}

func templateTo(recipient, name string, members ...string) string {
	return strings.Join(append([]string{fmt.Sprintf(
		`{"messaging_product":"whatsapp","to":%q,"type":"template","template":{"name":%q,"language":{"code":"en"}}`, recipient, name,
	)}, members...), ",") + "}"
}

// fees are the template fees in a tenant's ledger, by message. The test fails
// if the ledger does not add up, or has a capture other than of a base fee.
func (g *gateway) fees(t testing.TB, who tenant) map[string]int64 {
	t.Helper()
	ledger := g.ledger(t, who.account)
	g.checkSums(t, who.account, ledger, g.openHolds(t, who.account))
	fees := make(map[string]int64)
	for _, e := range ledger {
		amount := micros(t, e.Amount)
		switch {
		case e.Kind == "template_fee":
			if _, twice := fees[e.MessageID]; twice || e.ID != "template_fee_"+e.MessageID {
				t.Errorf("a template fee with the id %q", e.ID)
			}
			fees[e.MessageID] = amount
		case e.Kind != "credit" && amount != fee:
			t.Errorf("a %s of %d", e.Kind, amount)
		}
	}
	return fees
}

// wantFees fails the test unless these are the template fees of a tenant, and no
// send is in doubt.
func (g *gateway) wantFees(t testing.TB, who tenant, want map[string]int64) {
	t.Helper()
	if diff := cmp.Diff(want, g.fees(t, who)); diff != "" {
		t.Errorf("template fees: %s", diff)
	}
	if open := g.openHolds(t, who.account); len(open) != 0 {
		t.Errorf("%d holds are open", len(open))
	}
}

// sent is a message that Meta has accepted.
type sent struct{ id, recipient, callback string }

// sendTemplate sends a template and returns what the simulator knows of it.
func (g *gateway) sendTemplate(t testing.TB, who tenant, recipient string, members ...string) sent {
	t.Helper()
	a := g.send(t, who.key, templateTo(recipient, "offer", members...))
	a.wantCode(t, "")
	for _, m := range g.tally(t).Messages {
		if m.ID == a.messageID() {
			return sent{m.ID, recipient, m.CallbackData}
		}
	}
	t.Fatal("the simulator does not know the message")
	return sent{}
}

// status is a status of the message as Meta reports it.
func (m sent) status(state string, members ...string) string {
	return status(m.id, state, m.recipient, append(members, callback(m.callback))...)
}

// Whatever Meta reports in whatever order, a template costs its price once, and
// everything else its base fee alone.
func TestATemplateIsChargedOnceByWhatBecomesOfIt(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{simulator: "slow_answer 500ms"}.withWebhooks().withReports().withPrices(t))
	endpoint := startReceiver(t)
	p := rich
	p.endpoint = endpoint
	who := g.tenant(t, p)
	long := fmt.Sprintf(`"biz_opaque_callback_data":%q`, strings.Repeat("é", 512))
	want := make(map[string]int64)
	reports := 0
	for _, c := range []struct {
		body, query string
		fee         int64 // 0 is none
		statuses    int
	}{
		{g.message(accepted), "", 0, 3},
		{g.template(accepted, "offer"), "", marketingFee, 3},
		{g.template(accepted, "my_utility"), "", utilityFee, 3},
		{g.template(accepted, "my_authentication_international"), "", abroadFee, 3},
		{g.template(accepted, "offer"), "mmlite=true", liteFee, 3},
		{templateTo("498912345670000", "offer"), "", munichFee, 3},
		{g.template("8001", "offer"), "", marketingFee, 4}, // delivered twice
		{g.template("8002", "offer"), "", marketingFee, 2}, // read without delivered
		{g.template("8003", "offer"), "", 0, 1},            // never delivered
		{g.template("8004", "offer"), "", 0, 3},            // not billable
		{g.template("8005", "offer"), "", marketingFee, 3}, // out of order
		{g.template("8006", "offer"), "", 0, 2},            // failed
		{g.template("8007", "offer"), "", marketingFee, 3}, // delivered after failed
		{g.template("9107", "offer"), "", marketingFee, 3},
		{g.template("9109", "offer"), "", marketingFee, 3},       // statuses before the answer
		{g.template("9109", "offer", long), "", marketingFee, 3}, // and without the hold's id
	} {
		a := g.send(t, who.key, c.body, c.query)
		a.wantCode(t, "")
		if c.fee != 0 {
			want[a.messageID()] = c.fee
		}
		reports += c.statuses
	}
	g.send(t, who.key, g.template(refused, "offer")).wantCode(t, "GW_001")
	g.awaitReports(t, reports)
	g.wantFees(t, who, want)
	for _, d := range endpoint.await(t, reports) {
		if strings.Contains(d.body, "hold_") {
			t.Error("a hold's id was delivered")
		}
	}
	g.awaitDelivered(t)
	if n := g.metric(t, `template_fees_total{result="charged"}`); n == 0 || int(n) > len(want) {
		t.Errorf("%v fees were counted", n)
	}
}

func TestOnlyABillableStatusOfWhatHasArrivedIsCharged(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{}.withWebhooks().withPrices(t))
	who := g.tenant(t, rich)
	want := make(map[string]int64)
	billable := priced(true, "marketing")
	for _, c := range []struct {
		name     string
		fee      int64
		statuses func(m sent) []string
	}{
		{"nothing", 0, func(m sent) []string { return nil }},
		{"sent", 0, func(m sent) []string { return []string{m.status("sent", billable)} }},
		{"failed", 0, func(m sent) []string { return []string{m.status("failed", billable)} }},
		{"played", 0, func(m sent) []string { return []string{m.status("played", billable)} }},
		{"a state in upper case", 0, func(m sent) []string { return []string{m.status("DELIVERED", billable)} }},
		{"no price", 0, func(m sent) []string { return []string{m.status("delivered")} }},
		{"not billable", 0, func(m sent) []string { return []string{m.status("delivered", priced(false, "marketing"))} }},
		{"billable in another type", 0, func(m sent) []string {
			return []string{m.status("delivered", strings.Replace(billable, "true", `"true"`, 1)), m.status("read", strings.Replace(billable, "true", "1", 1))}
		}},
		{"billable nowhere but elsewhere", 0, func(m sent) []string {
			return []string{m.status("delivered", `"billable":true,"conversation":{"billable":true}`)}
		}},
		{"delivered", marketingFee, func(m sent) []string { return []string{m.status("delivered", billable)} }},
		{"read", marketingFee, func(m sent) []string { return []string{m.status("read", billable)} }},
		{"read before delivered", marketingFee, func(m sent) []string {
			return []string{m.status("read", billable), m.status("delivered", billable)}
		}},
		{"read that says nothing before delivered", marketingFee, func(m sent) []string {
			return []string{m.status("read"), m.status("delivered", billable)}
		}},
		{"delivered after failed", marketingFee, func(m sent) []string {
			return []string{m.status("sent", billable), m.status("failed"), m.status("delivered", billable)}
		}},
		{"twice", marketingFee, func(m sent) []string {
			return []string{m.status("delivered", billable), m.status("delivered", billable)}
		}},
		{"with another category the second time", marketingFee, func(m sent) []string {
			return []string{m.status("delivered", billable), m.status("read", priced(true, "utility"))}
		}},
		{"by message id alone", marketingFee, func(m sent) []string { return []string{status(m.id, "delivered", m.recipient, billable)} }},
		{"a hyphen in the category", abroadFee, func(m sent) []string {
			return []string{m.status("delivered", priced(true, "authentication-international"))}
		}},
		{"marketing_lite", liteFee, func(m sent) []string { return []string{m.status("delivered", priced(true, "marketing_lite"))} }},
		{"a category that is new", unknownFee, func(m sent) []string { return []string{m.status("delivered", priced(true, "telepathy"))} }},
		{"no category", unknownFee, func(m sent) []string { return []string{m.status("delivered", `"pricing":{"billable":true}`)} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := g.sendTemplate(t, who, g.recipient(accepted))
			// Each in a webhook of its own, then all in one, and again.
			all := c.statuses(m)
			for _, one := range all {
				g.report(t, notification(who.waba, statuses(who, one)))
			}
			g.report(t, notification(who.waba, statuses(who, all...)))
			if c.fee != 0 {
				want[m.id] = c.fee
			}
			if diff := cmp.Diff(want, g.fees(t, who)); diff != "" {
				t.Errorf("template fees: %s", diff)
			}
		})
	}
	g.wantFees(t, who, want)
	if n := g.metric(t, "template_fees_default_total"); n != 2 {
		t.Errorf("%v fees of the default row were counted", n)
	}
}

func TestAFeeIsChargedOnceToManyStatusesAtATime(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{}.withWebhooks().withPrices(t))
	who := g.tenant(t, rich)
	m := g.sendTemplate(t, who, g.recipient(accepted))
	var running sync.WaitGroup
	const times = 50
	for i := range times {
		state := []string{"delivered", "read"}[i%2]
		body := notification(who.waba, statuses(who, m.status(state, priced(true, "marketing"))))
		running.Go(func() {
			if a := g.doWebhook(t, g.webhook(t, body)); a.status != 200 {
				t.Errorf("status %d", a.status)
			}
		})
	}
	running.Wait()
	g.wantFees(t, who, map[string]int64{m.id: marketingFee})
	if n := g.metric(t, `template_fees_total{result="repeated"}`); n != times-1 {
		t.Errorf("%v repetitions were counted", n)
	}
}

// A template that was delivered is charged even where the wallet has not enough,
// and what has no price costs nothing and is loud about it.
func TestFeesByMarketAndCurrency(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{}.withWebhooks().withPrices(t))
	dollars, poor := g.tenant(t, rich), g.tenant(t, profile{credit: "0.001"})
	euros, yen := g.tenant(t, profile{currency: "EUR"}), g.tenant(t, profile{currency: "JPY"})
	delivered := func(who tenant, recipient, category string) sent {
		m := g.sendTemplate(t, who, recipient)
		g.report(t, notification(who.waba, statuses(who, m.status("delivered", priced(true, category)))))
		return m
	}
	abroad := "999123456780000"
	g.keepPrivate("recipient", abroad)
	charged := delivered(dollars, abroad, "marketing")
	g.logHas(t, `"level":"warn"`, "the default row was charged", `"app_id":"`+dollars.app+`"`, `"market":"default"`, `"category":"marketing"`)
	if n := g.metric(t, "template_fees_default_total"); n != 1 {
		t.Errorf("%v fees of the default row were counted", n)
	}
	inEuros := delivered(euros, g.recipient(accepted), "marketing")
	tooDear := delivered(poor, g.recipient(accepted), "marketing")
	delivered(euros, g.recipient(accepted), "utility")
	delivered(yen, g.recipient(accepted), "marketing")
	delivered(yen, g.recipient(accepted), "marketing")
	g.wantFees(t, dollars, map[string]int64{charged.id: elsewhereFee})
	g.wantFees(t, euros, map[string]int64{inEuros.id: 100_000})
	g.wantFees(t, yen, map[string]int64{})
	g.wantFees(t, poor, map[string]int64{tooDear.id: marketingFee})
	g.wantBalance(t, poor.account, balance{available: -marketingFee, captured: fee + marketingFee})
	g.send(t, poor.key, g.message(accepted)).wantCode(t, "BILL_001")
	for _, who := range []tenant{euros, yen} {
		g.logHas(t, `"level":"error"`, "no price in the account's currency", `"app_id":"`+who.app+`"`)
	}
	if n := g.metric(t, `template_fees_total{result="not_priced"}`); n != 3 {
		t.Errorf("%v fees without a price were counted", n)
	}
}

func TestAStatusOfAMessageThatWasNotSentHereIsForwardedAndNeverCharged(t *testing.T) {
	t.Parallel()
	g := startGateway(t, settings{}.withWebhooks().withPrices(t))
	endpoint := startReceiver(t)
	p := rich
	p.endpoint = endpoint
	who := g.tenant(t, p)
	before := g.ledger(t, who.account)
	for i, back := range []string{"", "own", "hold_", "hold_00000000000000000000000000", "hold_00000000000000000000000000:own", "hold_zzz:own"} {
		members := []string{priced(true, "marketing")}
		if back != "" {
			members = append(members, callback(back))
		}
		raw := statuses(who, status(fmt.Sprint("wamid.elsewhere.", i), "delivered", g.recipient(accepted), members...))
		g.report(t, notification(who.waba, raw))
		if taken := endpoint.await(t, i+1); taken[i].body != notification(who.waba, raw) || taken[i].event != "message_status" {
			t.Errorf("%q: delivered was %s", back, g.masked(taken[i].body))
		}
	}
	if diff := cmp.Diff(before, g.ledger(t, who.account)); diff != "" {
		t.Error(diff)
	}
	if n := g.metric(t, `template_fees_total{result="unknown_message"}`); n != 6 {
		t.Errorf("%v unknown messages were counted", n)
	}
}
