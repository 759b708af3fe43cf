package storetest

import (
	"context"
	"runtime"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
)

// earlyFee is a template fee whose message is not known yet.
type earlyFee struct {
	prices map[string]pricing.Micros
	at     time.Time
}

func (m *memory) Holds(ctx context.Context, ids []store.HoldID) (map[store.HoldID]store.Sender, error) {
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		return nil, err
	}
	senders := make(map[store.HoldID]store.Sender)
	for _, id := range ids {
		hold := m.holdOf(id)
		if hold == nil {
			if m.fault == tellsUnknown {
				senders[id] = store.Sender{}
			}
			continue
		}
		captured := m.entry(id.EntryID(store.KindCapture)) != nil
		again := m.entry(id.Again().EntryID(store.KindCapture)) != nil && m.fault != overlooksAgain
		senders[id] = store.Sender{App: hold.AppID, Account: hold.account, Captured: captured || again}
	}
	return senders, nil
}

func (m *memory) apply(s store.Status) (r store.StatusResult) {
	hold := m.holdOf(s.Hold)
	if hold != nil {
		r.Settled = m.prove(*hold, s)
	}
	if hold == nil || m.fault == trustsMessage {
		hold = m.captureOf(s.MessageID)
	}
	switch {
	case s.TemplateFee == nil:
	case hold != nil:
		r.Fee = m.charge(*hold, s.MessageID, s.TemplateFee)
	default:
		r.Fee = store.FeeUnknownMessage
		m.early[s.MessageID] = earlyFee{s.TemplateFee, m.now()}
		for id, e := range m.early {
			if m.now().Sub(e.at) > store.EarlyFee || m.fault == hurriesEarlyFees && m.now().Sub(e.at) > 0 {
				delete(m.early, id)
			}
		}
	}
	return r
}

// captureOf returns the capture that names the message, or nil.
func (m *memory) captureOf(messageID string) *owned {
	return find(m.entries, func(e *owned) bool {
		return e.Kind == store.KindCapture && e.MessageID == messageID && m.fault != needsHold
	})
}

// prove captures what Meta is known to have accepted. It tells whether it had to.
func (m *memory) prove(hold owned, s store.Status) bool {
	id := s.Hold
	if m.entry(id.EntryID(store.KindCapture)) != nil {
		return m.fault == settlesAlways
	}
	if m.entry(id.EntryID(store.KindRelease)) != nil {
		if m.fault == leavesReleased {
			return false
		}
		if id = id.Again(); m.fault == chargesAgain {
			id = store.NewHoldID()
		}
		if m.entry(string(id)) != nil {
			return false
		}
		if m.fault == countsAgain {
			m.admitted[hold.AppID] = append(m.admitted[hold.AppID], m.now())
		}
		m.append(hold.account, store.Entry{ID: string(id), Kind: store.KindHold, Amount: hold.Amount, AppID: hold.AppID})
	}
	if m.fault == namesNoMessage {
		s.MessageID = ""
	}
	m.end(hold, id, store.KindCapture, s.MessageID)
	return true
}

// charge charges a message's template fee to the account of a hold, or of a capture.
func (m *memory) charge(payer owned, messageID string, prices map[string]pricing.Micros) store.FeeResult {
	currency := m.account(payer.account).Currency
	if m.fault == chargesDollars {
		currency = "USD"
	}
	price, ok := prices[currency]
	if !ok && m.fault != chargesNothing || m.fault == skipsZeroFees && price == 0 {
		return store.FeeNotPriced
	}
	id := store.TemplateFeeID(messageID)
	charged := m.entry(id) != nil
	if m.fault == racesForFees {
		m.mu.Unlock()
		runtime.Gosched()
		m.mu.Lock()
	}
	if charged && m.fault != chargesEachStatus {
		return store.FeeRepeated
	}
	m.append(payer.account, store.Entry{
		ID: id, Kind: store.KindTemplateFee, Amount: price, AppID: payer.AppID, MessageID: messageID,
	})
	return store.FeeCharged
}
