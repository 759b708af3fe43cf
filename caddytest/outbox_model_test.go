package caddytest

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// price is the template fee of a message in micro-units, as [prices] has it. A
// message that has none costs nothing.
func (m *outgoing) price() (amount int64, ok bool) {
	amount, ok = map[string]int64{
		"4915 marketing": 136_500, "4915 utility": 55_000,
		"1876 marketing": 74_000, "1876 utility": 33_300, "1876 authentication": 33_300, // nor has the market default
		"1202 marketing": 25_000, "1202 utility": 4_000, "1202 authentication": 3_000,
		"9995 marketing": 60_400, "9995 utility": 33_300, "9995 authentication": 33_300, // no market at all
	}[m.recipient[:4]+" "+m.category]
	return amount, ok // authentication in Germany has its price in another currency
}

// prices is the rate card of the test. What begins in the future is not in effect.
const prices = `market,calling_codes,category,price,currency,effective_from
# for TestEverythingAcknowledgedIsDelivered
Germany,49,marketing,0.09,USD,2020-01-01
Germany,49,marketing,0.1365,USD,2025-07-01
Germany,49,marketing,9.99,USD,2999-01-01
Germany,49,utility,0.055,USD,2025-07-01
Germany,49,authentication,0.07,EUR,2025-07-01
Jamaica,1658 1876,marketing,0.074,USD,2025-07-01
North America,1,marketing,0.025,USD,2025-07-01
North America,1,utility,0.004,USD,2025-07-01
North America,1,authentication,0.003,USD,2025-07-01
default,,marketing,0.0604,USD,2025-07-01
default,,default,0.0333,USD,2025-07-01
`

// books are what an account has to look like in the end.
type books struct {
	credit int64
	// messages are the base fees by message id, templates the template fees.
	messages, templates map[string]int64
}

// booksOf derives the books of a subscriber from what Meta has accepted and told.
func booksOf(s *subscriber, credit int64, letters []*letter) books {
	b := books{credit: credit, messages: make(map[string]int64), templates: make(map[string]int64)}
	for _, m := range s.sent {
		b.messages[m.id] = fee
	}
	for _, l := range letters {
		if l.to != s {
			continue
		}
		for _, m := range l.charges {
			if price, ok := m.price(); ok {
				b.templates[m.id] = price
			}
		}
	}
	return b
}

// booksIn reads the books of an account from its ledger, and fails the test where
// an entry stands twice, or a balance does not follow from what was before it.
// open are the holds without an outcome.
func (g *gateway) booksIn(t testing.TB, account string, open map[string]bool) books {
	t.Helper()
	b := books{messages: make(map[string]int64), templates: make(map[string]int64)}
	ids := make(map[string]bool)
	var is balance
	for _, e := range g.ledger(t, account) {
		amount := micros(t, e.Amount)
		if ids[e.ID] {
			t.Errorf("%s stands twice", e.ID)
		}
		ids[e.ID] = true
		switch e.Kind {
		case "credit":
			b.credit += amount
			is.available += amount
		case "hold":
			is.available, is.held = is.available-amount, is.held+amount
		case "capture":
			is.held, is.captured = is.held-amount, is.captured+amount
			b.messages[e.MessageID] += amount
		case "template_fee":
			is.available, is.captured = is.available-amount, is.captured+amount
			b.templates[e.MessageID] += amount
		default:
			t.Errorf("%s: a %s", e.ID, e.Kind)
		}
		if got := micros(t, e.Balance); got != is.available {
			t.Fatalf("%s: balance %d, derived %d", e.ID, got, is.available)
		}
	}
	if is.held != int64(len(open))*fee {
		t.Errorf("%d is held by %d holds", is.held, len(open))
	}
	g.wantBalance(t, account, is)
	return b
}

// wantBooks compares an account's books with those that a plain model derives.
func (g *gateway) wantBooks(t *testing.T, meta *gateway, s *subscriber, letters []*letter) {
	t.Helper()
	open := g.openHolds(t, s.account)
	for _, m := range meta.tally(t).Messages {
		hold, _, _ := strings.Cut(m.CallbackData, ":")
		if open[strings.TrimPrefix(hold, "hold_")] {
			t.Errorf("%s is open although a status has returned it", hold)
		}
	}
	want, got := booksOf(s, micros(t, plenty.credit), letters), g.booksIn(t, s.account, open)
	inDoubt := slices.DeleteFunc(slices.Clone(s.sent), func(m *outgoing) bool { return !m.inDoubt })
	t.Logf("%d messages, %d of them in doubt before, %d template fees, %d holds in doubt",
		len(s.sent), len(inDoubt), len(want.templates), len(open))
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(books{})); diff != "" {
		t.Errorf("the books of %s (-want +got):\n%s", s.app, diff)
	}
	if len(want.templates) == 0 || len(want.messages) != len(s.sent) {
		t.Errorf("%d template fees, and %d ids of %d messages", len(want.templates), len(want.messages), len(s.sent))
	}
}
