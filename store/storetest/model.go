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
}

type wallet struct {
	balance store.Balance
	// entries are by id, and without what only the store knows: sequence
	// numbers, times, and the balance after the entry, which the audit checks.
	entries map[string]store.Entry
}

type modelHold struct {
	store.Admission
	at      time.Time
	outcome store.Kind // "" while it is open
}

type modelCredit struct {
	account tenant.AccountID
	amount  pricing.Micros
}

func newModel(accounts []tenant.AccountID) *model {
	m := &model{
		wallets: make(map[tenant.AccountID]*wallet),
		holds:   make(map[store.HoldID]*modelHold),
		credits: make(map[string]modelCredit),
	}
	for _, id := range accounts {
		m.wallets[id] = &wallet{entries: make(map[string]store.Entry)}
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
	return nil
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
