package sqlite

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// enter appends to the ledger and marks the wallet as changed. Not fresh means
// that the entry's id was there already and nothing was done.
func (w *writer) enter(e store.Entry, wl *wallet) (fresh bool, err error) {
	result, err := w.statements.insertEntry.Exec(
		e.ID, wl.account, e.Kind, e.Amount, e.Balance, e.AppID, e.MessageID, e.At.UnixMicro())
	if err != nil {
		return false, err
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return false, err
	}
	w.touch(wl)
	return true, nil
}

// entryExists tells whether the ledger has an entry of this id.
func (w *writer) entryExists(id string) (bool, error) {
	rows, err := w.statements.selectEntry.Query(id)
	if err != nil {
		return false, err
	}
	exists := rows.Next()
	return exists, errors.Join(rows.Err(), rows.Close())
}

// Ledger implements [store.Store].
func (s *Store) Ledger(ctx context.Context, account tenant.AccountID, since time.Time) iter.Seq2[store.Entry, error] {
	return func(yield func(store.Entry, error) bool) {
		if _, err := s.Account(ctx, account); err != nil {
			yield(store.Entry{}, err)
			return
		}
		var from int64
		if !since.IsZero() {
			from = since.UnixMicro()
		}
		rows, err := s.reading.QueryContext(ctx, `SELECT seq, id, kind, amount, balance, ifnull(message_id, ''), ifnull(app_id, ''), at
			FROM ledger WHERE account_id = ? AND at >= ? ORDER BY seq`, account, from)
		if err != nil {
			yield(store.Entry{}, s.readError(err))
			return
		}
		defer rows.Close()
		for rows.Next() {
			var e store.Entry
			var at int64
			if err := rows.Scan(&e.Seq, &e.ID, &e.Kind, &e.Amount, &e.Balance, &e.MessageID, &e.AppID, &at); err != nil {
				yield(store.Entry{}, err)
				return
			}
			e.At = time.UnixMicro(at).UTC()
			if !yield(e, nil) {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(store.Entry{}, err)
		}
	}
}
