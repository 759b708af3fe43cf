package sqlite

import (
	"context"
	"slices"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// certainty is how sure it is that something is in the books.
type certainty int

const (
	impossible certainty = iota
	possible
	certain
)

// expected is an entry of the ledger that was asked for.
type expected struct {
	store.Entry
	account tenant.AccountID
	state   certainty
	// It was made in one of the rounds from the first to the last.
	first, last int
}

func (e *expected) be(c certainty) { e.state = max(e.state, c) }

// expectedEvent is an event that was received.
type expectedEvent struct {
	received, delivered certainty
	round               int // in which it was delivered
}

// expect notes that an entry is asked for in this round.
func (b *books) expect(account tenant.AccountID, e store.Entry) *expected {
	one := b.entries[e.ID]
	if one == nil {
		one = &expected{Entry: e, account: account}
		b.entries[e.ID] = one
	}
	if one.state == impossible {
		one.first = b.round
	}
	if one.state != certain {
		one.last = max(one.last, b.round)
	}
	return one
}

// expectOf notes that an entry of a hold, or of the one in its place, is asked for.
func (b *books) expectOf(h *sentHold, id store.HoldID, kind store.Kind) *expected {
	return b.expect(h.Account, store.Entry{ID: id.EntryID(kind), Kind: kind, Amount: h.Fee, AppID: h.App})
}

func (b *books) expectFee(h *sentHold) *expected {
	return b.expect(h.Account, store.Entry{
		ID: store.TemplateFeeID(h.message), Kind: store.KindTemplateFee, Amount: h.fee, AppID: h.App, MessageID: h.message,
	})
}

// check compares the books with what has to be in them, and what is not certain is so from now on.
func (b *books) check() {
	b.Helper()
	await(b.T, "holds to be given back", func() (none bool) {
		b.inWriter(func(w *writer) error { none = len(w.unclaimed) == 0; return nil })
		return none
	})
	found := make(map[string]store.Entry)
	for _, account := range b.accounts {
		b.checkAccount(account, found)
	}
	for id, e := range b.entries {
		if _, ok := found[id]; !ok && e.state == certain {
			b.Errorf("a %s of round %d to %d is lost", e.Kind, e.first, e.last)
		} else if ok {
			e.state = certain
		} else {
			e.state = impossible
		}
	}
	b.checkHolds(found)
	b.checkEvents()
	if b.Failed() {
		b.Fatalf("by round %d the books are wrong", b.round)
	}
}

// checkAccount compares an account's ledger with what was asked for, with the whole ledger, and
// with its wallet.
func (b *books) checkAccount(account tenant.AccountID, found map[string]store.Entry) {
	b.Helper()
	all := allEntries(b.T, b.s, account)
	checkEntries(b.T, b.s, account, all)
	var sum balance
	began := 0 // the round before which no more may come
	for _, e := range all {
		want := b.entries[e.ID]
		if _, twice := found[e.ID]; want == nil || twice || want.state == impossible {
			b.Errorf("there is a %s that nobody has made, or twice: %t, %+v", e.Kind, twice, want)
			continue
		}
		found[e.ID] = e
		if began = max(began, want.first); want.last < began {
			b.Errorf("a %s of round %d to %d comes behind one of round %d", e.Kind, want.first, want.last, began)
		}
		if sum = sum.after(e); e.Balance != sum.Available {
			b.Errorf("behind a %s are %d available, and it says %d", e.Kind, sum.Available, e.Balance)
		}
		if want.account != account || e.Kind != want.Kind || e.Amount != want.Amount || e.AppID != want.AppID {
			b.Errorf("%+v, want %+v", e, want.Entry)
		}
	}
	if got, err := b.s.Balance(b.Context(), account); err != nil || balance(got) != sum {
		b.Errorf("the balance is %+v, %v, and the sum of the entries %+v", got, err, sum)
	}
	b.checkWallet(account, sum)
	if b.IntN(4) == 0 {
		b.checkSince(account, all)
	}
}

// checkWallet compares the tables of a wallet with its ledger.
func (b *books) checkWallet(account tenant.AccountID, sum balance) {
	b.Helper()
	var credited, held pricing.Micros
	var row balance
	err := b.s.reading.QueryRowContext(b.Context(), `SELECT credited, available, held, captured,
		(SELECT ifnull(sum(amount), 0) FROM holds WHERE account_id = accounts.id) FROM accounts WHERE id = ?`, account).
		Scan(&credited, &row.Available, &row.Held, &row.Captured, &held)
	if err != nil || row != sum || held != sum.Held || credited != sum.Available+sum.Held+sum.Captured {
		b.Errorf("the wallet has %+v of %d, with holds of %d, and the sum of the entries is %+v, %v", row, credited, held, sum, err)
	}
}

// checkSince reads a part of an account's ledger.
func (b *books) checkSince(account tenant.AccountID, all []store.Entry) {
	b.Helper()
	if len(all) == 0 {
		return
	}
	since := all[b.IntN(len(all))].At
	var got []store.Entry
	for e, err := range b.s.Ledger(b.Context(), account, since) {
		if err != nil {
			b.Fatal(err)
		}
		got = append(got, e)
	}
	want := slices.DeleteFunc(slices.Clone(all), func(e store.Entry) bool { return e.At.Before(since) })
	if diff := cmp.Diff(want, got); diff != "" {
		b.Errorf("since %v (-want +got):\n%s", since, diff)
	}
}

// checkHolds compares what is known of holds and messages with the ledger.
func (b *books) checkHolds(found map[string]store.Entry) {
	b.Helper()
	var ids []store.HoldID
	for _, h := range b.sent {
		ids = append(ids, h.HoldID)
	}
	senders, err := b.s.Holds(b.Context(), ids)
	if err != nil {
		b.Fatal(err)
	}
	for _, h := range b.sent {
		sender, known := senders[h.HoldID]
		f := h.findIn(found)
		switch {
		case f.captured && f.released, f.retaken && !f.released, f.held != f.retaken, !f.made && (f.captured || f.released || f.charged):
			b.Errorf("a hold has come to %+v", f)
		case f.misnamed:
			b.Error("a capture is of another message")
		case known != f.made, f.made && (sender.Account != h.Account || sender.App != h.App || sender.Captured != (f.captured || f.retaken)):
			b.Errorf("the sender of a hold that has come to %+v is %+v", f, sender)
		case h.accepted && !f.captured && !f.retaken:
			b.Error("a message that Meta has accepted is not charged")
		case h.abandoned && f.made && !f.captured && !f.released:
			b.Error("a hold that nobody was told of is still held")
		case h.named && !f.named:
			b.Error("a capture names no message")
		case h.early && f.named && !f.charged:
			b.Error("a fee that came early is not charged")
		}
		h.named = f.named
	}
	b.inWriter(func(w *writer) error {
		for _, h := range b.sent {
			app, account, err := w.senderOf(h.message)
			if h.named && (err != nil || app != h.App || account != h.Account) || !h.named && err == nil {
				b.Errorf("a message that is named: %t is another one's, or nobody's: %v", h.named, err)
			}
		}
		return nil
	})
}

// fate is what the ledger has of a hold.
type fate struct{ made, captured, released, held, retaken, charged, named, misnamed bool }

func (h *sentHold) findIn(found map[string]store.Entry) (f fate) {
	_, f.made = found[string(h.HoldID)]
	_, f.released = found[h.HoldID.EntryID(store.KindRelease)]
	_, f.held = found[string(h.HoldID.Again())]
	_, f.charged = found[store.TemplateFeeID(h.message)]
	var capture, again store.Entry
	capture, f.captured = found[h.HoldID.EntryID(store.KindCapture)]
	again, f.retaken = found[h.HoldID.Again().EntryID(store.KindCapture)]
	f.named = capture.MessageID == h.message || again.MessageID == h.message
	f.misnamed = capture.MessageID != "" && capture.MessageID != h.message || f.retaken && again.MessageID != h.message
	return f
}

// checkEvents compares the outbox with what was received and delivered.
func (b *books) checkEvents() {
	b.Helper()
	there := make(map[store.EventID]bool)
	for e, err := range b.s.Events(b.Context(), store.EventFilter{}) {
		if err != nil {
			b.Fatal(err)
		}
		want := b.events[e.ID]
		if want == nil || there[e.ID] || want.received == impossible || want.delivered == certain || e.State != store.Pending {
			b.Errorf("an event is there that nobody has received, or that is delivered, or twice: %t, %+v", there[e.ID], want)
		}
		there[e.ID] = true
	}
	for id, e := range b.events {
		switch {
		case there[id]:
			e.received, e.delivered = certain, impossible
		case e.received == certain && e.delivered == impossible:
			b.Error("an event is lost")
		case e.received != impossible: // it came and went, or never came
			e.delivered = certain
		}
	}
}

// deliverAll delivers every event that is left, each once.
func (b *books) deliverAll() {
	b.Helper()
	b.clock.Advance(2 * time.Hour) // all claims have run out, and all retries are due
	for _, app := range b.apps {
		for {
			claimed, _, err := b.s.Claim(b.Context(), app, 10, time.Hour)
			if err != nil {
				b.Fatal(err)
			}
			for _, c := range claimed {
				e := b.events[c.ID]
				if e == nil || e.delivered == certain {
					b.Fatal("an event is claimed that is not there")
				}
				delivered(b.T, b.s, c)
				e.delivered = certain
			}
			if len(claimed) == 0 {
				break
			}
		}
	}
	for range b.s.Events(context.Background(), store.EventFilter{}) {
		b.Fatal("an event is never claimed")
	}
}
