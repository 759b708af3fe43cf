package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
)

const (
	// tailChunk is how many sends are entered in the ledger at a time: enough to share
	// the pages that they are written to, and few enough to wait for.
	tailChunk = 256
	// tailAge is how old a hold without an outcome becomes before it is entered alone;
	// nearly all have one by then.
	tailAge = 2 * time.Second
	// tailRest is how long a send may stay in the tail while there are others to fill a
	// chunk.
	tailRest = 250 * time.Millisecond
	// tailSpan bounds how far apart the seqs of a hold and its outcome are where they are
	// entered together: who reads the ledger in its order has to look as far ahead.
	tailSpan = 1 << 16
)

// tail is the newest part of the ledger, in memory and in rows of ledger_tail.
//
// A hold and its outcome are committed as two records of some ten bytes in a row
// that the whole group shares, and later entered in the ledger as one entry: three
// index pages are then written for many sends, and not for each step of one.
type tail struct {
	// mu guards holds and what is in them. The writer alone changes them, and need
	// not hold it to read.
	mu    sync.RWMutex
	holds map[store.HoldID]*recentHold

	made    []*recentHold // as they were made
	settled []*recentHold // as they were settled
	records []byte        // of the transaction under way
	// first and next are the seqs of the first row that may be there and of the one to
	// come.
	first, next int64
	// entered are those of made that the transaction under way has entered.
	entered int
	// newest is an id before which there may be holds in the ledger; those with later
	// ones are all here.
	newest store.HoldID
}

// recentHold is a hold that is not entered in the ledger.
type recentHold struct {
	record
	row int64 // of ledger_tail
	// outcome is empty while there is none.
	outcome record
	// entered: by the transaction under way. For the writer it is not here any more.
	entered bool
}

// open: it has no outcome.
func (h *recentHold) open() bool { return h.outcome.kind == "" }

func newTail() tail {
	return tail{holds: make(map[store.HoldID]*recentHold), next: 1, newest: store.NewHoldID()}
}

// find returns a hold that is not entered.
func (t *tail) find(id store.HoldID) *recentHold {
	if h := t.holds[id]; h != nil && !h.entered {
		return h
	}
	return nil
}

// hold adds a hold, of which the row has to be written.
func (t *tail) hold(r *record, row int64) {
	h := &recentHold{record: *r, row: row}
	t.mu.Lock()
	t.holds[r.hold] = h
	t.mu.Unlock()
	t.made = append(t.made, h)
}

// settle gives a hold its outcome.
func (t *tail) settle(h *recentHold, r *record) {
	t.mu.Lock()
	h.outcome = *r
	t.mu.Unlock()
	t.settled = append(t.settled, h)
}

// sender tells whose hold it is, if it is here, to any goroutine.
func (t *tail) sender(id store.HoldID) (store.Sender, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	h := t.holds[id]
	if h == nil {
		return store.Sender{}, false
	}
	return store.Sender{Account: h.account, App: h.app, Captured: h.outcome.kind == store.KindCapture}, true
}

// forget drops what is in memory, and what the transaction under way did to it. Another
// process may have entered any of it.
func (t *tail) forget() {
	t.mu.Lock()
	for id := range t.holds {
		t.newest = max(t.newest, id)
	}
	clear(t.holds)
	t.mu.Unlock()
	t.made, t.settled, t.records, t.entered = nil, nil, t.records[:0], 0
}

// committed drops what has been entered.
func (t *tail) committed() {
	t.records = t.records[:0]
	if t.entered == 0 {
		return
	}
	t.entered = 0
	isEntered := func(h *recentHold) bool { return h.entered }
	t.mu.Lock()
	for _, h := range t.made {
		if h.entered {
			delete(t.holds, h.hold)
			t.newest = max(t.newest, h.hold)
		}
	}
	t.mu.Unlock()
	t.made = slices.DeleteFunc(t.made, isEntered)
	t.settled = slices.DeleteFunc(t.settled, isEntered)
}

// due tells whether there is a chunk to enter.
func (t *tail) due() bool { return len(t.settled) >= tailChunk }

// tailFormat is the first byte of a row of ledger_tail, before its records.
const tailFormat = 1

// remember has a record written by the transaction under way.
func (w *writer) remember(r *record) {
	w.seq = r.seq
	if len(w.tail.records) == 0 {
		w.tail.records = append(w.tail.records, tailFormat)
	}
	w.tail.records = r.append(w.tail.records)
}

// loadTail reads what this or another process has left in ledger_tail. What is
// entered already is passed over: a row stays until all in it is.
func (w *writer) loadTail() error {
	rows, err := w.conn.QueryContext(context.Background(), "SELECT seq, records FROM ledger_tail ORDER BY seq")
	type row struct {
		seq     int64
		records []byte
	}
	all, err := collect(rows, err, func(scan func(...any) error) (r row, err error) { return r, scan(&r.seq, &r.records) })
	if err != nil {
		return err
	}
	w.tail.first = 0
	for _, r := range all {
		w.tail.next = r.seq + 1
		if len(r.records) == 0 || r.records[0] != tailFormat {
			return errors.New("a row of ledger_tail has an unknown format")
		}
		if err := readRecords(r.records[1:], func(record *record) error { return w.recall(record, r.seq) }); err != nil {
			return err
		}
	}
	return nil
}

// recall takes a record of ledger_tail into memory.
func (w *writer) recall(r *record, row int64) error {
	w.seq = max(w.seq, r.seq)
	if r.kind != store.KindHold {
		if h := w.tail.find(r.hold); h != nil && h.open() {
			return w.settleRecent(h, r)
		}
		return nil // it is entered
	}
	entered, err := w.isEntered(r.hold)
	if err != nil || entered {
		return err
	}
	wl, err := w.walletOfEntry(r.account)
	if err != nil {
		return err
	}
	w.tail.hold(r, row)
	wl.Available -= r.amount
	wl.Held += r.amount
	return nil
}

// settleRecent ends a hold of the tail in memory.
func (w *writer) settleRecent(h *recentHold, r *record) error {
	wl, err := w.walletOfEntry(h.account)
	if err != nil {
		return err
	}
	wl.Held -= h.amount
	if r.kind == store.KindCapture {
		wl.Captured += h.amount
	} else {
		wl.Available += h.amount
	}
	w.tail.settle(h, r)
	return nil
}

// isEntered tells whether the ledger has a hold, as an entry of its own or with its
// outcome.
func (w *writer) isEntered(id store.HoldID) (bool, error) {
	n, err := w.commands.countHeld.number(id.EntryID(store.KindHold), id.EntryID(store.KindCapture), id.EntryID(store.KindRelease))
	return n > 0, err
}

// enterTail enters the holds that have an outcome, at most so many, and those without
// one that were made before a time.
func (w *writer) enterTail(most int, before int64) error {
	for _, h := range w.tail.settled {
		if most == 0 {
			break
		}
		if h.entered {
			continue
		}
		if err := w.enterRecent(h); err != nil {
			return err
		}
		most--
	}
	for _, h := range w.tail.made {
		if h.entered || !h.open() {
			continue
		}
		if h.at >= before {
			break
		}
		if err := w.enterRecent(h); err != nil {
			return err
		}
	}
	return nil
}

// enterAll enters the whole tail.
func (w *writer) enterAll() error {
	return w.enterTail(len(w.tail.settled), math.MaxInt64)
}

// enterRecent enters a hold, with its outcome if it has one.
func (w *writer) enterRecent(h *recentHold) error {
	wl, err := w.walletOfEntry(h.account)
	if err != nil {
		return err
	}
	after := wl.entered.after(store.Entry{Kind: store.KindHold, Amount: h.amount})
	r, held := &h.record, [3]driver.Value{}
	if h.open() {
		_, err = w.commands.insertHold.exec(string(h.hold), string(h.account), string(h.app), int64(h.amount), h.at)
	} else {
		after = after.after(store.Entry{Kind: h.outcome.kind, Amount: h.amount})
		r, held = &h.outcome, [3]driver.Value{h.seq, int64(h.balance), h.at}
	}
	if err != nil {
		return err
	}
	n, err := w.commands.insertEntry.exec(r.seq, h.hold.EntryID(r.kind), string(h.account), string(r.kind), int64(h.amount),
		int64(r.balance), null(h.app), null(r.messageID), r.at, held[0], held[1], held[2])
	if err == nil && n == 0 {
		err = errors.New("an entry of the ledger's tail is in the ledger already")
	}
	if err != nil {
		return err
	}
	w.messages.add(r)
	h.entered = true
	w.tail.entered++
	wl.entered = after
	w.touch(wl)
	return nil
}

// writeTail writes down what the transaction under way has added to the tail, and
// deletes the rows of which everything is entered.
func (w *writer) writeTail() error {
	t := &w.tail
	first := t.next
	for _, h := range t.made {
		if !h.entered {
			first = h.row
			break
		}
	}
	if t.entered > 0 && t.first < first {
		if _, err := w.commands.deleteTail.exec(first); err != nil {
			return err
		}
		t.first = first
	}
	if len(t.records) == 0 || t.entered == len(t.made) {
		return nil
	}
	_, err := w.commands.insertTail.exec(t.next, t.records)
	t.next++
	return err
}
