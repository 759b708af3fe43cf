package sqlite

import (
	"container/heap"
	"context"
	"database/sql"
	"errors"
	"iter"
	"math"
	"strings"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// enter appends to the ledger and has the wallet written. Not fresh means that the entry's id was there already and nothing was done.
func (w *writer) enter(e store.Entry, wl *wallet) (fresh bool, err error) {
	n, err := w.commands.insertEntry.exec(w.seq+1, e.ID, string(wl.account), string(e.Kind), int64(e.Amount), int64(e.Balance),
		null(e.AppID), null(e.MessageID), e.At.UnixMicro())
	if err != nil || n == 0 {
		return false, err
	}
	w.seq++
	w.messages.add(&record{kind: e.Kind, messageID: e.MessageID, seq: w.seq})
	w.accounts.add(wl.account, w.seq)
	wl.entered = wl.entered.after(e)
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
		if err := s.readLedger(ctx, account, since, yield); err != nil && !errors.Is(err, errEnough) {
			yield(store.Entry{}, err)
		}
	}
}

// errEnough means that nothing more is wanted.
var errEnough = errors.New("enough")

// readLedger is [Store.Ledger], whose error is yet to be handed out.
func (s *Store) readLedger(ctx context.Context, account tenant.AccountID, since time.Time, yield func(store.Entry, error) bool) error {
	if _, err := s.Account(ctx, account); err != nil {
		return err
	}
	var from int64
	if !since.IsZero() {
		from = since.UnixMicro()
	}
	upTo, err := s.enterTail(ctx, (*writer).enterAll)
	if err != nil {
		return err
	}
	var ahead entryHeap
	read := func(which string, arg any) error {
		rows, err := s.reading.QueryContext(ctx, `SELECT seq, id, kind, amount, balance, ifnull(message_id, ''), ifnull(app_id, ''), at,
			held_seq, held_balance, held_at FROM ledger WHERE `+which+` AND account_id = ? AND seq <= ? AND max(at, ifnull(held_at, 0)) >= ? ORDER BY seq`,
			arg, account, upTo, from)
		if err != nil {
			return s.readError(err)
		}
		defer rows.Close()
		for rows.Next() {
			e, held, err := scanEntry(rows.Scan)
			if err != nil {
				return err
			}
			if e.At.UnixMicro() >= from {
				heap.Push(&ahead, e)
			}
			if held.Seq > 0 && held.At.UnixMicro() >= from {
				heap.Push(&ahead, held)
			}
			if !ahead.yieldBefore(e.Seq-tailSpan, yield) {
				return errEnough
			}
		}
		return rows.Err()
	}
	indexed, err := s.entrySeqs(ctx, account, func(seqs []byte) error {
		return read("seq IN (SELECT value FROM json_each(?))", string(seqs))
	})
	if err == nil {
		err = read("seq > ?", indexed)
	}
	if err == nil {
		ahead.yieldBefore(math.MaxInt64, yield)
	}
	return err
}

// scanEntry reads a row of the ledger: an entry and, where it is in the same row, the
// hold of which it is the outcome. Otherwise the hold's Seq is 0.
func scanEntry(scan func(...any) error) (e, held store.Entry, err error) {
	var at int64
	var heldSeq, heldBalance, heldAt sql.NullInt64
	err = scan(&e.Seq, &e.ID, &e.Kind, &e.Amount, &e.Balance, &e.MessageID, &e.AppID, &at, &heldSeq, &heldBalance, &heldAt)
	e.At = time.UnixMicro(at).UTC()
	if heldSeq.Valid {
		held = store.Entry{
			Seq: heldSeq.Int64, ID: string(store.KindHold) + strings.TrimPrefix(e.ID, string(e.Kind)), Kind: store.KindHold,
			Amount: e.Amount, Balance: pricing.Micros(heldBalance.Int64), AppID: e.AppID, At: time.UnixMicro(heldAt.Int64).UTC(),
		}
	}
	return e, held, err
}

// entryHeap has entries that were read, the first of the ledger on top: holds come with
// their outcomes, that is late, but by no more than [tailSpan].
type entryHeap []store.Entry

func (h entryHeap) Len() int           { return len(h) }
func (h entryHeap) Less(i, j int) bool { return h[i].Seq < h[j].Seq }
func (h entryHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *entryHeap) Push(e any)        { *h = append(*h, e.(store.Entry)) }
func (h *entryHeap) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	*h = (*h)[:last]
	return e
}

// yieldBefore hands out the entries before a seq. It tells whether more are wanted.
func (h *entryHeap) yieldBefore(seq int64, yield func(store.Entry, error) bool) bool {
	for len(*h) > 0 && (*h)[0].Seq < seq {
		if !yield(heap.Pop(h).(store.Entry), nil) {
			return false
		}
	}
	return true
}

// enterTail has what is in the ledger's tail entered, for those who read the ledger, and
// returns the seq up to which the ledger has everything now that enter enters.
func (s *Store) enterTail(ctx context.Context, enter func(*writer) error) (int64, error) {
	var upTo int64 // no result, for the writer may still be at it when this returns an error
	err := s.writer.do(ctx, &operation{apply: func(w *writer) error {
		if !w.open {
			if _, err := w.refresh(); err != nil {
				return err
			}
		}
		upTo = w.seq
		if w.current.wrote = w.open; w.tail.entered == len(w.tail.made) {
			return nil
		}
		if _, err := w.begin(); err != nil {
			return err
		}
		err := enter(w)
		upTo = w.seq
		return err
	}})
	if err != nil {
		return 0, err
	}
	return upTo, nil
}

// enterSettled enters what has an outcome.
func (w *writer) enterSettled() error {
	return w.enterTail(len(w.tail.settled), func(*recentHold) bool { return false })
}
