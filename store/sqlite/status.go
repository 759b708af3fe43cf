package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// maxEarlyFees bounds the template fees in memory whose messages are not known
// yet; most of them are of messages that somebody else has sent.
const maxEarlyFees = 100_000

// earlyFee is a template fee whose message is not known yet. It is in memory
// alone: should the process end, so does the send that would have named it.
type earlyFee struct {
	prices map[string]pricing.Micros
	at     time.Time
}

// selectSender tells whose an entry of the ledger is.
const selectSender = "SELECT account_id, ifnull(app_id, '') FROM ledger WHERE id = ?"

// Holds implements [store.Store].
func (s *Store) Holds(ctx context.Context, ids []store.HoldID) (map[store.HoldID]store.Sender, error) {
	senders := make(map[store.HoldID]store.Sender, len(ids))
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	find := func(entry string) (sender store.Sender, err error) {
		return sender, s.reads.selectSender.QueryRowContext(ctx, entry).Scan(&sender.Account, &sender.App)
	}
	for _, id := range ids {
		if !id.Valid() {
			continue
		}
		recent, known := s.writer.tail.sender(id)
		if !recent.Captured { // it may be entered by now
			sender, err := enteredSender(find, id)
			if err == nil {
				recent, known = sender, true
			} else if !errors.Is(err, sql.ErrNoRows) {
				return nil, s.readError(err)
			}
		}
		if known {
			senders[id] = recent
		}
	}
	return senders, nil
}

// senders is [Store.Holds] as of the transaction under way.
func (w *writer) senders(ids []store.HoldID) (map[store.HoldID]store.Sender, error) {
	senders := make(map[store.HoldID]store.Sender, len(ids))
	for _, id := range ids {
		if !id.Valid() {
			continue
		}
		h := w.tail.find(id)
		if h != nil {
			senders[id] = store.Sender{Account: h.account, App: h.app, Captured: h.outcome.kind == store.KindCapture}
			if h.outcome.kind != store.KindRelease { // else it may be captured anew
				continue
			}
		}
		sender, err := enteredSender(w.commands.sender, id)
		if err == nil {
			senders[id] = sender
		} else if !errors.Is(err, sql.ErrNoRows) {
			return nil, err
		}
	}
	return senders, nil
}

// enteredSender finds in the ledger whose a hold is, in one step where it is captured;
// sql.ErrNoRows where it is not there. Each step sees at least what the one before has seen.
func enteredSender(find func(entry string) (store.Sender, error), id store.HoldID) (sender store.Sender, err error) {
	for _, e := range [...]struct {
		hold store.HoldID
		kind store.Kind
	}{{id, store.KindCapture}, {id.Again(), store.KindCapture}, {id, store.KindRelease}, {id, store.KindHold}} {
		if sender, err = find(e.hold.EntryID(e.kind)); !errors.Is(err, sql.ErrNoRows) {
			sender.Captured = err == nil && e.kind == store.KindCapture
			break
		}
	}
	return sender, err
}

// sender runs selectSender.
func (c *commands) sender(entry string) (store.Sender, error) {
	var columns [2]driver.Value
	if err := c.selectSender.row(columns[:], entry); err != nil {
		return store.Sender{}, err
	}
	account, _ := columns[0].(string)
	app, _ := columns[1].(string)
	return store.Sender{Account: tenant.AccountID(account), App: tenant.AppID(app)}, nil
}

// applyStatus does what a status means for the wallets.
func (w *writer) applyStatus(status store.Status) (result store.StatusResult, err error) {
	if early, ok := w.earlyFees[status.MessageID]; ok && status.TemplateFee != nil { // this one takes its place
		delete(w.earlyFees, status.MessageID)
		w.replaced[status.MessageID] = early
	}
	if status.Hold != "" && !status.Captured {
		result.Settled, err = w.settle(status.Hold, store.Captured, status.MessageID)
		switch {
		case errors.Is(err, store.ErrConflict):
			result.Settled, err = w.captureReleased(status.Hold, status.MessageID)
		case errors.Is(err, store.ErrNotFound):
			status.Hold, err = "", nil
		}
		if err != nil {
			return result, err
		}
	}
	if status.TemplateFee != nil {
		result.Fee, err = w.templateFee(status)
	}
	return result, err
}

// captureReleased charges for a message whose hold was given back: it is held
// and captured anew. It tells whether that had not been done before.
func (w *writer) captureReleased(id store.HoldID, messageID string) (bool, error) {
	e, account, err := w.hold(id)
	if err != nil {
		return false, err
	}
	wl, err := w.walletOfEntry(account)
	if err != nil {
		return false, err
	}
	again := id.Again()
	after := wl.Balance
	after.Available -= e.Amount
	after.Captured += e.Amount
	held := store.Entry{ID: again.EntryID(store.KindHold), Kind: store.KindHold, Amount: e.Amount, Balance: after.Available, AppID: e.AppID, At: w.clock()}
	if fresh, err := w.enter(held, wl); err != nil || !fresh {
		return false, err
	}
	captured := held
	captured.ID, captured.Kind, captured.MessageID = again.EntryID(store.KindCapture), store.KindCapture, messageID
	fresh, err := w.enter(captured, wl)
	if err == nil && !fresh {
		err = errors.New("a capture without a hold is in the ledger")
	}
	if err != nil {
		return false, err
	}
	wl.Balance = after
	return true, w.chargeEarlyFee(wl, e.AppID, messageID)
}

// templateFee charges the fee of a status, or remembers it.
func (w *writer) templateFee(status store.Status) (store.FeeResult, error) {
	var app tenant.AppID
	var account tenant.AccountID
	var err error
	if status.Captured && status.Sender.Account != "" {
		app, account = status.Sender.App, status.Sender.Account
	} else if status.Hold != "" {
		var hold store.Entry
		hold, account, err = w.hold(status.Hold)
		app = hold.AppID
	} else {
		app, account, err = w.senderOf(status.MessageID)
	}
	if errors.Is(err, sql.ErrNoRows) {
		if len(w.earlyFees) < maxEarlyFees {
			w.earlyFees[status.MessageID] = earlyFee{status.TemplateFee, w.clock()}
		}
		return store.FeeUnknownMessage, nil
	}
	if err != nil {
		return store.NoFee, err
	}
	wl, err := w.walletOfEntry(account)
	if err != nil {
		return store.NoFee, err
	}
	return w.chargeTemplate(wl, app, status.MessageID, status.TemplateFee)
}

// chargeTemplate charges a message's template fee, once.
func (w *writer) chargeTemplate(wl *wallet, app tenant.AppID, messageID string, prices map[string]pricing.Micros) (store.FeeResult, error) {
	price, ok := prices[wl.currency]
	if !ok {
		return store.FeeNotPriced, nil
	}
	available, err := wl.Available.Add(-price)
	captured, err2 := wl.Captured.Add(price)
	if err != nil || err2 != nil {
		return store.FeeNotPriced, nil // nobody means such an amount
	}
	fresh, err := w.enter(store.Entry{
		ID: store.TemplateFeeID(messageID), Kind: store.KindTemplateFee, Amount: price,
		Balance: available, MessageID: messageID, AppID: app, At: w.clock(),
	}, wl)
	if err != nil || !fresh {
		return store.FeeRepeated, err
	}
	wl.Available, wl.Captured = available, captured
	return store.FeeCharged, nil
}

// chargeEarlyFee charges the template fee that came before the message it is for.
func (w *writer) chargeEarlyFee(wl *wallet, app tenant.AppID, messageID string) error {
	fee, ok := w.earlyFees[messageID]
	if !ok {
		return nil
	}
	_, err := w.chargeTemplate(wl, app, messageID, fee.prices)
	return err
}

// restoreEarlyFees takes back what has taken the place of others in the transaction under way.
func (w *writer) restoreEarlyFees() {
	for id, fee := range w.replaced {
		if _, ok := w.earlyFees[id]; !ok {
			w.earlyFees[id] = fee
		}
	}
}

// forgetEarlyFees drops the fees whose messages did not come.
func (w *writer) forgetEarlyFees() {
	for id, fee := range w.earlyFees {
		if w.clock().Sub(fee.at) > store.EarlyFee {
			delete(w.earlyFees, id)
		}
	}
}

// entry reads what a ledger entry moved and whose it is; sql.ErrNoRows where
// there is none.
func (w *writer) entry(id string) (e store.Entry, account tenant.AccountID, err error) {
	err = w.statements.selectEntry.QueryRow(id).Scan(&e.Kind, &account, &e.Amount, &e.AppID)
	return e, account, err
}

// hold reads what a hold held and whose it is; sql.ErrNoRows where there is none.
func (w *writer) hold(id store.HoldID) (e store.Entry, account tenant.AccountID, err error) {
	if h := w.tail.find(id); h != nil {
		return store.Entry{Amount: h.amount, AppID: h.app}, h.account, nil
	}
	var columns [3]driver.Value
	err = w.commands.selectHeld.row(columns[:], id.EntryID(store.KindHold), id.EntryID(store.KindCapture), id.EntryID(store.KindRelease))
	if err != nil {
		return e, "", err
	}
	of, _ := columns[0].(string)
	amount, _ := columns[1].(int64)
	app, _ := columns[2].(string)
	return store.Entry{Amount: pricing.Micros(amount), AppID: tenant.AppID(app)}, tenant.AccountID(of), nil
}

// walletOfEntry is [writer.wallet] for an account that the ledger names: that
// there is none is no answer to the caller but a fault of the database.
func (w *writer) walletOfEntry(account tenant.AccountID) (*wallet, error) {
	wl, err := w.wallet(account)
	if errors.Is(err, store.ErrNotFound) {
		err = errors.New("the ledger names an account that is missing")
	}
	return wl, err
}
