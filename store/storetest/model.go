package storetest

import (
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// model is what wallets should be: plain numbers and maps, without rate
// windows, without concurrency, without errors.
type model struct {
	wallets map[tenant.AccountID]*wallet
	holds   map[store.HoldID]*modelHold
	credits map[string]modelCredit
	// named are the holds by the message that their capture names, early the
	// fees of messages that none has named yet.
	named map[string]*modelHold
	early map[string]map[string]pricing.Micros
	// charged are the messages whose fee was charged.
	charged map[string]bool
}

type wallet struct {
	currency string
	balance  store.Balance
	// entries are by id, and without what only the store knows: sequence
	// numbers, times, and the balance after the entry, which the audit checks.
	entries map[string]store.Entry
}

type modelHold struct {
	store.Admission
	at      time.Time
	outcome store.Kind // "" while it is open
	again   bool       // captured after it was released
}

type modelCredit struct {
	account tenant.AccountID
	amount  pricing.Micros
}

// newModel makes a model of accounts, by their currencies, that are empty.
func newModel(currencies map[tenant.AccountID]string) *model {
	m := &model{
		wallets: make(map[tenant.AccountID]*wallet),
		holds:   make(map[store.HoldID]*modelHold),
		credits: make(map[string]modelCredit),
		named:   make(map[string]*modelHold),
		early:   make(map[string]map[string]pricing.Micros),
		charged: make(map[string]bool),
	}
	for id, currency := range currencies {
		m.wallets[id] = &wallet{currency: currency, entries: make(map[string]store.Entry)}
	}
	return m
}

func (w *wallet) add(e store.Entry) { w.entries[e.ID] = e }

func (m *model) admit(a store.Admission, at time.Time) store.Verdict {
	w := m.wallets[a.Account]
	switch {
	case m.holds[a.HoldID] != nil:
		return store.Admitted
	case w == nil:
		return store.NoAccount
	case w.balance.Available <= 0:
		return store.NoBalance
	case a.Mode != store.Hold:
		return store.Admitted
	}
	w.balance.Available -= a.Fee
	w.balance.Held += a.Fee
	w.add(store.Entry{ID: string(a.HoldID), Kind: store.KindHold, Amount: a.Fee, AppID: a.App})
	m.holds[a.HoldID] = &modelHold{Admission: a, at: at}
	return store.Admitted
}

func (m *model) settle(id store.HoldID, kind store.Kind, messageID string) error {
	h := m.holds[id]
	switch {
	case h == nil:
		return store.ErrNotFound
	case h.outcome == kind:
		return nil
	case h.outcome != "":
		return store.ErrConflict
	}
	h.outcome = kind
	w := m.wallets[h.Account]
	w.balance.Held -= h.Fee
	if kind == store.KindCapture {
		w.balance.Captured += h.Fee
	} else {
		w.balance.Available += h.Fee
	}
	w.add(store.Entry{ID: id.EntryID(kind), Kind: kind, Amount: h.Fee, AppID: h.App, MessageID: messageID})
	if kind == store.KindCapture {
		m.name(h, messageID)
	}
	return nil
}

// name notes the message of a capture and charges what came for it before.
func (m *model) name(h *modelHold, messageID string) {
	if messageID == "" {
		return
	}
	m.named[messageID] = h
	if prices, ok := m.early[messageID]; ok {
		delete(m.early, messageID)
		m.charge(h, messageID, prices)
	}
}

func (m *model) charge(h *modelHold, messageID string, prices map[string]pricing.Micros) store.FeeResult {
	w := m.wallets[h.Account]
	price, ok := prices[w.currency]
	switch {
	case m.charged[messageID]:
		return store.FeeRepeated
	case !ok:
		return store.FeeNotPriced
	}
	m.charged[messageID] = true
	w.balance.Available -= price
	w.balance.Captured += price
	w.add(store.Entry{
		ID: store.TemplateFeeID(messageID), Kind: store.KindTemplateFee, Amount: price, AppID: h.App, MessageID: messageID,
	})
	return store.FeeCharged
}

// status does what a status means. Where a fee is also one that came early, or
// one that was charged for a message that no capture names, the status may be
// answered with the other result, too.
func (m *model) status(s store.Status) (result store.StatusResult, other store.FeeResult) {
	_, early := m.early[s.MessageID]
	h := m.holds[s.Hold]
	if h != nil {
		result.Settled = m.prove(s.Hold, h, s.MessageID)
	} else {
		h = m.named[s.MessageID]
	}
	switch {
	case s.TemplateFee == nil:
	case h != nil:
		delete(m.early, s.MessageID)
		if result.Fee = m.charge(h, s.MessageID, s.TemplateFee); result.Fee == store.FeeRepeated && early {
			return result, store.FeeCharged
		}
	default:
		if result.Fee = store.FeeUnknownMessage; m.charged[s.MessageID] {
			return result, store.FeeRepeated
		}
		m.early[s.MessageID] = s.TemplateFee
	}
	return result, result.Fee
}

// prove captures a hold whose message Meta has accepted, unless that was done.
func (m *model) prove(id store.HoldID, h *modelHold, messageID string) bool {
	if h.outcome == store.KindCapture || h.again {
		return false
	}
	if h.outcome == "" {
		return m.settle(id, store.KindCapture, messageID) == nil
	}
	h.again = true
	w := m.wallets[h.Account]
	w.balance.Available -= h.Fee
	w.balance.Captured += h.Fee
	w.add(store.Entry{ID: string(id.Again()), Kind: store.KindHold, Amount: h.Fee, AppID: h.App})
	w.add(store.Entry{
		ID: id.Again().EntryID(store.KindCapture), Kind: store.KindCapture, Amount: h.Fee, AppID: h.App, MessageID: messageID,
	})
	m.name(h, messageID)
	return true
}

func (m *model) inDoubt(before time.Time, kind store.Kind) (n int) {
	for id, h := range m.holds {
		if h.outcome == "" && h.at.Before(before) {
			_ = m.settle(id, kind, "") // an open hold settles
			n++
		}
	}
	return n
}

func (m *model) credit(c modelCredit, operation string) (store.Balance, error) {
	w := m.wallets[c.account]
	if w == nil {
		return store.Balance{}, store.ErrNotFound
	}
	before, repeated := m.credits[operation]
	if repeated && before != c {
		return store.Balance{}, store.ErrConflict
	}
	if !repeated {
		m.credits[operation] = c
		w.balance.Available += c.amount
		w.add(store.Entry{ID: operation, Kind: store.KindCredit, Amount: c.amount})
	}
	return w.balance, nil
}
