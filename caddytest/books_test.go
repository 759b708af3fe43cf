package caddytest

import (
	"strings"
	"testing"
)

// accounts is how the sends of a tenant stand, once the gateway's books and
// Meta's have been compared.
type accounts struct {
	// captured, released and inDoubt are the sends that ended so.
	captured, released, inDoubt int
	// unnamed are the captures without a message id, made by the in-doubt policy.
	unnamed int
	// messages are the ids of the captures.
	messages map[string]bool
	// accepted is how many messages Meta accepted.
	accepted int
}

// metaBooks is what the simulator counted, send by send.
type metaBooks struct {
	Messages []struct {
		ID            string `json:"id"`
		PhoneNumberID string `json:"phone_number_id"`
		CallbackData  string `json:"biz_opaque_callback_data"`
	} `json:"messages"`
	CallbackData map[string]struct {
		Accepted int `json:"accepted"`
		Refused  int `json:"refused"`
	} `json:"callback_data"`
}

// audit compares the ledger of a tenant with what the simulator of meta counted,
// and fails the test for whatever must never be, at whatever moment the gateway
// was killed. The gateway serves nobody meanwhile.
func (g *gateway) audit(t testing.TB, meta *gateway, who tenant) accounts {
	t.Helper()
	ledger, open := g.ledger(t, who.account), g.openHolds(t, who.account)
	g.checkSums(t, who.account, ledger, open)
	fates, charged := readLedger(t, ledger)
	accepted := meta.acceptedHolds(t, who)

	a := accounts{accepted: len(accepted), messages: make(map[string]bool)}
	for id, what := range fates {
		if open[id] != (what == inDoubt) {
			t.Errorf("%s is %s, and its hold is open: %v", id, what, open[id])
		}
		switch what {
		case captured:
			a.captured++
		case released:
			a.released++
		default:
			a.inDoubt++
		}
	}
	for id := range accepted {
		if fates[id] != captured && fates[id] != inDoubt {
			t.Errorf("%s was accepted by Meta and is %q in the ledger", id, fates[id])
		}
	}
	for id, message := range charged {
		switch {
		case message == "":
			a.unnamed++
			continue
		case accepted[id] != message:
			t.Errorf("%s was captured for a message that Meta did not accept for it", id)
		case a.messages[message]:
			t.Errorf("%s was captured for a message that was charged before", id)
		}
		a.messages[message] = true
	}
	return a
}

// readLedger returns what became of every hold, and for which message each was
// captured. Ids are without their prefix.
func readLedger(t testing.TB, ledger []ledgerEntry) (fates map[string]fate, charged map[string]string) {
	t.Helper()
	fates, charged = make(map[string]fate), make(map[string]string)
	for _, e := range ledger {
		kind, id, _ := strings.Cut(e.ID, "_")
		switch kind {
		case "hold":
			fates[id] = inDoubt
		case "capture", "release":
			if fates[id] != inDoubt {
				t.Errorf("%s: a %s of what is %q", id, kind, fates[id])
			}
			fates[id] = map[string]fate{"capture": captured, "release": released}[kind]
		}
		if kind == "capture" {
			charged[id] = e.MessageID
		}
	}
	return fates, charged
}

// acceptedHolds returns the ids of a tenant's messages by their holds, each
// without its prefix, and fails the test for a message that was sent twice.
func (g *gateway) acceptedHolds(t testing.TB, who tenant) map[string]string {
	t.Helper()
	var books metaBooks
	g.simulated(t, "/_simulator/accepted", &books)
	accepted := make(map[string]string)
	for _, m := range books.Messages {
		if m.PhoneNumberID != who.phone {
			continue
		}
		hold, _, _ := strings.Cut(m.CallbackData, ":")
		id, ok := strings.CutPrefix(hold, "hold_")
		if !ok {
			t.Errorf("a message with the callback data %q", m.CallbackData)
		}
		accepted[id] = m.ID
	}
	for data, n := range books.CallbackData {
		if n.Accepted+n.Refused != 1 {
			t.Errorf("%q was sent %d times", data, n.Accepted+n.Refused)
		}
	}
	return accepted
}

// openHolds returns the holds of an account that have no outcome, without their prefix.
func (g *gateway) openHolds(t testing.TB, account string) map[string]bool {
	t.Helper()
	if g.onRedis() {
		return g.settings.common.openHolds(t, account)
	}
	g.ledger(t, account) // which has the ledger's tail entered
	db := g.open(t)
	defer db.Close()
	rows, err := db.QueryContext(t.Context(), "SELECT id FROM holds WHERE account_id = ?", account)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	open := make(map[string]bool)
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			t.Fatal(err)
		}
		open[strings.TrimPrefix(id, "hold_")] = true
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return open
}

// checkSums derives the balance from the ledger, entry by entry, and compares
// it with what the account shows.
func (g *gateway) checkSums(t testing.TB, account string, ledger []ledgerEntry, open map[string]bool) {
	t.Helper()
	var credits int64
	var b balance
	for _, e := range ledger {
		amount := micros(t, e.Amount)
		switch e.Kind {
		case "credit":
			credits += amount
			b.available += amount
		case "hold":
			b.available, b.held = b.available-amount, b.held+amount
		case "capture":
			b.held, b.captured = b.held-amount, b.captured+amount
		case "release":
			b.held, b.available = b.held-amount, b.available+amount
		case "template_fee":
			b.available, b.captured = b.available-amount, b.captured+amount
		default:
			t.Errorf("%s: unknown kind %q", e.ID, e.Kind)
		}
		if got := micros(t, e.Balance); got != b.available {
			t.Fatalf("%s: balance %d, derived %d", e.ID, got, b.available)
		}
	}
	if credits != b.available+b.held+b.captured || b.held != int64(len(open))*fee {
		t.Errorf("credits of %d, %d open holds, and %+v", credits, len(open), b)
	}
	g.wantBalance(t, account, b)
}
