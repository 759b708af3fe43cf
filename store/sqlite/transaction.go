package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
	"unique"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// begin opens the transaction unless there is one; an operation calls it before
// it writes. It tells whether another process has written since the last look,
// in which case a decision made before must be made again.
func (w *writer) begin() (changed bool, err error) {
	w.current.wrote = true
	if w.open {
		return false, nil
	}
	if w.broken != nil {
		return false, w.broken // what has just failed is not waited for again
	}
	if _, err := w.commands.begin.exec(); err != nil {
		return false, err
	}
	w.open = true
	return w.refresh()
}

// refresh reads anew what is in memory, and tells caches to do the same, if
// another connection has written since the last look.
func (w *writer) refresh() (changed bool, err error) {
	began := time.Now()
	version, err := w.commands.dataVersion.number()
	if err != nil {
		return false, err
	}
	if version == w.dataVersion && !w.lost {
		w.watched.Store(&began)
		return false, nil
	}
	if !w.open { // what is read here belongs together
		if _, err := w.conn.ExecContext(context.Background(), "BEGIN"); err != nil {
			return false, err
		}
		defer func() {
			_, endErr := w.conn.ExecContext(context.Background(), "ROLLBACK")
			err = errors.Join(err, endErr)
		}()
		if version, err = w.commands.dataVersion.number(); err != nil {
			return false, err
		}
	}
	if version != w.dataVersion {
		w.generation.Add(1)
		w.accounts.fresh = nil
	}
	w.watched.Store(&began)
	w.forget()
	w.dataVersion = version
	if w.seq, err = w.commands.lastSeq.number(); err != nil {
		return true, err
	}
	err = w.loadTail()
	if err == nil && w.windows != nil { // a command looks for no message
		err = w.noteMessages()
	}
	if err != nil {
		w.forget()
		return true, err
	}
	w.lost = false
	return true, nil
}

// forget drops the money in memory.
func (w *writer) forget() {
	w.lost = true
	w.wallets.clear()
	w.tail.forget()
	w.arrivals.forget()
	w.claims.forgetAll()
}

// commit writes the changed wallets and makes the group durable.
func (w *writer) commit() error {
	if !w.open {
		return nil
	}
	if err := w.writeBooks(); err != nil {
		return err
	}
	if _, err := w.commands.commit.exec(); err != nil {
		return err
	}
	if w.shown {
		w.claims.show()
	}
	if w.moved {
		w.claims.forgetAll()
	}
	w.claims.received(w.received)
	w.endTransaction()
	w.tail.committed()
	w.arrivals.committed()
	w.messages.committed(w.seq)
	w.accounts.committed()
	return nil
}

// writeBooks writes the wallets, the tail and the arrivals. Behind an error nothing more is
// written: SQLite may have rolled back, and what follows would be there for good.
func (w *writer) writeBooks() error {
	for _, wl := range w.dirty {
		b := &wl.entered
		if _, err := w.commands.updateWallet.exec(int64(wl.credited), int64(b.Available), int64(b.Held), int64(b.Captured), wl.row); err != nil {
			return err
		}
	}
	if err := w.writeTail(); err != nil {
		return err
	}
	return w.writeArrivals()
}

// rollback undoes the group, on disk and in memory, and gives err to those of its operations that
// had written, and to those that were refused for what is undone now.
func (w *writer) rollback(err error) {
	if w.open {
		// SQLite itself has rolled back after some errors; a second time is refused
		// and changes nothing.
		_, _ = w.conn.ExecContext(context.Background(), "ROLLBACK")
		w.forget()
		w.messages.rolledBack()
		w.accounts.rolledBack()
	}
	for _, ws := range w.counted {
		ws.Undo()
	}
	w.restoreEarlyFees()
	for _, op := range w.pending {
		if op.wrote && (op.err == nil || refusal(op.err)) {
			op.err = fmt.Errorf("nothing was written: %w", err)
		}
	}
	w.endTransaction()
	w.broken = err
}

func (w *writer) endTransaction() {
	for _, wl := range w.dirty {
		wl.dirty = false
	}
	if w.stale {
		w.generation.Add(1)
	}
	w.changed = w.changed || w.stale || w.moved
	clear(w.received) // of their payloads
	clear(w.replaced)
	w.open, w.stale, w.moved, w.shown, w.dirty, w.counted, w.received = false, false, false, false, w.dirty[:0], w.counted[:0], w.received[:0]
}

// wallet returns an account's money, from memory if it is there. Those of which
// there is something in the tail always are.
func (w *writer) wallet(account tenant.AccountID) (*wallet, error) {
	if wl := w.wallets.get(account); wl != nil {
		return wl, nil
	}
	wl := &wallet{account: account}
	err := w.statements.selectWallet.QueryRow(account).Scan(&wl.row, &wl.currency, &wl.credited, &wl.Available, &wl.Held, &wl.Captured)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, store.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	wl.currency = unique.Make(wl.currency).Value() // one text for all of them
	wl.entered = balance(wl.Balance)
	kept := w.wallets.add(account)
	*kept = *wl
	return kept, nil
}

// touch has a wallet's row written at the end of the transaction under way.
func (w *writer) touch(wl *wallet) {
	if !wl.dirty {
		wl.dirty = true
		w.dirty = append(w.dirty, wl)
	}
}
