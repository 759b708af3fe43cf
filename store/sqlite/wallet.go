package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// wallet is an account's money as of the last commit plus the transaction
// under way.
type wallet struct {
	account  tenant.AccountID
	row      int64 // rowid of accounts
	currency string
	credited pricing.Micros
	store.Balance
	entered balance // what of it is entered in the ledger, and in its row
	dirty   bool    // the row is to be written
}

// balance is a balance as the ledger has it.
type balance store.Balance

// after returns the balance after an entry.
func (b balance) after(e store.Entry) balance {
	switch e.Kind {
	case store.KindCredit:
		b.Available += e.Amount
	case store.KindHold:
		b.Available -= e.Amount
		b.Held += e.Amount
	case store.KindCapture:
		b.Held -= e.Amount
		b.Captured += e.Amount
	case store.KindRelease:
		b.Held -= e.Amount
		b.Available += e.Amount
	case store.KindTemplateFee:
		b.Available -= e.Amount
		b.Captured += e.Amount
	}
	return b
}

// Capture implements [store.Store].
func (s *Store) Capture(ctx context.Context, id store.HoldID, messageID string) error {
	return s.settle(ctx, id, store.Captured, messageID)
}

// Release implements [store.Store].
func (s *Store) Release(ctx context.Context, id store.HoldID) error {
	return s.settle(ctx, id, store.Released, "")
}

func (s *Store) settle(ctx context.Context, id store.HoldID, outcome store.Outcome, messageID string) error {
	return s.writer.do(ctx, &operation{apply: func(w *writer) error {
		_, err := w.settle(id, outcome, messageID)
		return err
	}})
}

// settling is a settlement that nobody waits for. It is used again once its end is told.
type settling struct {
	operation
	hold      store.HoldID
	outcome   store.Outcome
	messageID string
	tell      func(error)
}

func (s *Store) newSettling() *settling {
	if op, ok := s.settlings.Get().(*settling); ok {
		return op
	}
	op := new(settling)
	op.apply = func(w *writer) error {
		_, err := w.settle(op.hold, op.outcome, op.messageID)
		return err
	}
	op.after = func(err error) {
		tell := op.tell
		op.reset()
		op.hold, op.messageID, op.tell = "", "", nil
		s.settlings.Put(op)
		tell(err)
	}
	return op
}

// SettleHold implements [store.Settler].
func (s *Store) SettleHold(id store.HoldID, outcome store.Outcome, messageID string, done func(error)) {
	op := s.newSettling()
	op.hold, op.outcome, op.messageID, op.tell = id, outcome, messageID, done
	if !s.writer.queue.add(&op.operation) {
		op.after(store.ErrClosed)
	}
}

// settle ends a hold. Not fresh means that it had this outcome before.
func (w *writer) settle(id store.HoldID, outcome store.Outcome, messageID string) (fresh bool, err error) {
	if len(id) != store.HoldIDLength {
		return false, store.ErrNotFound
	}
	if _, err := w.begin(); err != nil {
		return false, err
	}
	if h := w.tail.find(id); h != nil {
		if !h.open() || w.seq-h.seq < tailSpan {
			return w.settleInTail(h, outcome, messageID)
		}
		if err := w.enterOpen(h); err != nil {
			return false, err
		}
	}
	var account tenant.AccountID
	e := store.Entry{MessageID: messageID, At: w.clock()}
	err = w.statements.deleteHold.QueryRow(id).Scan(&account, &e.AppID, &e.Amount)
	if errors.Is(err, sql.ErrNoRows) {
		return false, w.settledBefore(id, outcome)
	}
	if err != nil {
		return false, err
	}
	wl, err := w.walletOfEntry(account)
	if err != nil {
		return false, err
	}
	after := wl.Balance
	after.Held -= e.Amount
	if outcome == store.Captured {
		e.Kind = store.KindCapture
		after.Captured += e.Amount
	} else {
		e.Kind = store.KindRelease
		after.Available += e.Amount
	}
	e.ID, e.Balance = id.EntryID(e.Kind), after.Available
	if fresh, err = w.enter(e, wl); err != nil {
		return false, err
	}
	if !fresh {
		return false, errors.New("an open hold has an outcome in the ledger") // not a refusal: the hold must stay
	}
	wl.Balance = after
	return true, w.chargeEarlyFee(wl, e.AppID, messageID)
}

// settleInTail ends a hold that is in the ledger's tail.
func (w *writer) settleInTail(h *recentHold, outcome store.Outcome, messageID string) (fresh bool, err error) {
	r := record{kind: store.KindRelease, hold: h.hold, seq: w.seq + 1, at: w.clock().UnixMicro()}
	if outcome == store.Captured {
		r.kind, r.messageID = store.KindCapture, messageID
	}
	switch {
	case h.open():
	case h.outcome.kind == r.kind:
		return false, nil
	default:
		return false, store.ErrConflict
	}
	wl, err := w.walletOfEntry(h.account)
	if err != nil {
		return false, err
	}
	if r.balance = wl.Available; r.kind == store.KindRelease {
		r.balance += h.amount
	}
	if err := w.settleRecent(h, &r); err != nil {
		return false, err
	}
	w.remember(&r)
	return true, w.chargeEarlyFee(wl, h.app, messageID)
}

// settledBefore is the answer for a hold that is not open.
func (w *writer) settledBefore(id store.HoldID, outcome store.Outcome) error {
	captured, err := w.entryExists(id.EntryID(store.KindCapture))
	if err != nil {
		return err
	}
	released, err := w.entryExists(id.EntryID(store.KindRelease))
	switch {
	case err != nil:
		return err
	case !captured && !released:
		return store.ErrNotFound
	case captured == (outcome == store.Captured):
		return nil
	default:
		return store.ErrConflict
	}
}

// InDoubt implements [store.Store].
func (s *Store) InDoubt(ctx context.Context, before time.Time, outcome store.Outcome) (int, error) {
	const group = 500 // so that sends need not wait for all of them
	for settled := 0; ; {
		n := 0
		err := s.writer.do(ctx, &operation{apply: func(w *writer) error {
			if err := w.enterDoubtful(before); err != nil {
				return err
			}
			ids, err := w.holdsBefore(before, group)
			if err != nil {
				return err
			}
			for _, id := range ids {
				if _, err := w.settle(id, outcome, ""); err != nil {
					return err
				}
			}
			n = len(ids)
			return nil
		}})
		if err != nil {
			return settled, err
		}
		if settled += n; n < group {
			return settled, nil
		}
	}
}

// enterDoubtful enters the holds of the tail that were made before a time and have no
// outcome.
func (w *writer) enterDoubtful(before time.Time) error {
	if _, err := w.begin(); err != nil {
		return err
	}
	return w.enterTail(0, func(h *recentHold) bool { return h.at < before.UnixMicro() })
}

func (w *writer) holdsBefore(before time.Time, limit int) ([]store.HoldID, error) {
	rows, err := w.conn.QueryContext(context.Background(),
		"SELECT id FROM holds WHERE made_at < ? ORDER BY id LIMIT ?", before.UnixMicro(), limit)
	return collect(rows, err, func(scan func(...any) error) (id store.HoldID, err error) {
		return id, scan(&id)
	})
}

// Credit implements [store.Store].
func (s *Store) Credit(ctx context.Context, account tenant.AccountID, amount pricing.Micros, operationID string) (store.Balance, error) {
	if store.ReservedEntryID(operationID) {
		return store.Balance{}, store.ErrConflict
	}
	var balance store.Balance
	err := s.writer.do(ctx, &operation{apply: func(w *writer) error {
		if _, err := w.begin(); err != nil {
			return err
		}
		wl, err := w.wallet(account)
		if err != nil {
			return err
		}
		balance = wl.Balance
		if known, err := w.creditedBefore(operationID, account, amount); known || err != nil {
			return err
		}
		available, err := wl.Available.Add(amount)
		if err != nil {
			return err
		}
		credited, err := wl.credited.Add(amount)
		if err != nil {
			return err
		}
		e := store.Entry{ID: operationID, Kind: store.KindCredit, Amount: amount, Balance: available, At: w.clock()}
		if _, err := w.enter(e, wl); err != nil {
			return err
		}
		wl.credited, wl.Available = credited, available
		balance = wl.Balance
		return nil
	}})
	if err != nil { // the writer may still be at it
		return store.Balance{}, err
	}
	return balance, nil
}

// creditedBefore tells whether the same credit has taken effect, and returns
// [store.ErrConflict] where its id stands for something else.
func (w *writer) creditedBefore(id string, account tenant.AccountID, amount pricing.Micros) (bool, error) {
	e, ofAccount, err := w.entry(id)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err == nil && (e.Kind != store.KindCredit || ofAccount != account || e.Amount != amount) {
		err = store.ErrConflict
	}
	return true, err
}

// Balance implements [store.Store].
func (s *Store) Balance(ctx context.Context, account tenant.AccountID) (store.Balance, error) {
	var b store.Balance
	err := s.writer.do(ctx, &operation{apply: func(w *writer) error {
		if !w.open {
			if _, err := w.refresh(); err != nil {
				return err
			}
		}
		w.current.wrote = w.open
		wl, err := w.wallet(account)
		if err == nil {
			b = wl.Balance
		}
		return err
	}})
	if err != nil { // the writer may still be at it
		return store.Balance{}, err
	}
	return b, nil
}
