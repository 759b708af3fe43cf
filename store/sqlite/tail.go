package sqlite

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
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
	// tidyRetry is how long after a failure it is tried again.
	tidyRetry = time.Second
	// tailSpan bounds how far apart the seqs of a hold and its outcome are where they are
	// entered together: who reads the ledger in its order has to look as far ahead.
	tailSpan = 1 << 16
)

// tail is the newest part of the ledger, in memory and in rows of ledger_tail.
//
// A hold and its outcome are committed as two records of some hundred bytes in a row
// that the whole group shares, and later entered in the ledger as one entry: three
// index pages are then written for many sends, and not for each step of one.
type tail struct {
	holds map[store.HoldID]*recentHold
	// senders says whose the holds are, to any goroutine, under mu. It may have some that
	// are entered, or were never committed, but always all that are committed and not
	// entered.
	mu      sync.RWMutex
	senders map[store.HoldID]store.Sender

	blank   []recentHold  // in one piece of memory, for the next ones
	made    []*recentHold // as they were made
	settled []*recentHold // as they were settled
	told    int           // how many of settled the senders tell of: those that are committed
	records []byte        // of the transaction under way
	// first and next are the seqs of the first row that may be there and of the one to
	// come.
	first, next int64
	// entered are those of made that the transaction under way has entered.
	entered int
	// before are the outcomes that were committed and here when memory was last dropped: what
	// is not here again is entered.
	before []record
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
	return tail{holds: make(map[store.HoldID]*recentHold), senders: make(map[store.HoldID]store.Sender), next: 1, newest: store.NewHoldID()}
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
	if len(t.blank) == 0 {
		t.blank = make([]recentHold, 64)
	}
	h := &t.blank[0]
	t.blank = t.blank[1:]
	h.record, h.row = *r, row
	t.holds[r.hold] = h
	t.made = append(t.made, h)
	t.mu.Lock()
	t.senders[r.hold] = store.Sender{Account: r.account, App: r.app}
	t.mu.Unlock()
}

// settle gives a hold its outcome.
func (t *tail) settle(h *recentHold, r *record) {
	h.outcome = *r
	t.settled = append(t.settled, h)
}

// sender tells whose hold it is, if it is here, to any goroutine, and whether it is
// captured for good.
func (t *tail) sender(id store.HoldID) (store.Sender, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	sender, ok := t.senders[id]
	return sender, ok
}

// forget drops what is in memory, but for the senders.
func (t *tail) forget() {
	for id := range t.holds {
		t.newest = max(t.newest, id)
	}
	for _, h := range t.settled[:t.told] {
		t.before = append(t.before, h.outcome)
	}
	clear(t.holds)
	t.made, t.settled, t.told, t.records, t.entered = nil, nil, 0, t.records[:0], 0
}

// tell has the senders tell what is committed of the outcomes. It is called under mu.
func (t *tail) tell() {
	for _, h := range t.settled[t.told:] {
		if h.outcome.kind == store.KindCapture {
			t.senders[h.hold] = store.Sender{Account: h.account, App: h.app, Captured: true}
		}
	}
	t.told = len(t.settled)
}

// loaded drops the senders of what is not here any more, and returns the outcomes that
// have gone since memory was dropped.
func (t *tail) loaded() (gone []record) {
	for _, r := range t.before {
		if h := t.holds[r.hold]; h == nil || h.open() {
			gone = append(gone, r)
		}
	}
	t.before = nil
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tell()
	maps.DeleteFunc(t.senders, func(id store.HoldID, _ store.Sender) bool { return t.holds[id] == nil })
	return gone
}

// committed tells of what has an outcome now, and drops what has been entered.
func (t *tail) committed() {
	t.records = t.records[:0]
	if t.entered == 0 && t.told == len(t.settled) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tell()
	if t.entered == 0 {
		return
	}
	t.entered = 0
	for _, h := range t.made {
		if h.entered {
			delete(t.senders, h.hold)
			delete(t.holds, h.hold)
			t.newest = max(t.newest, h.hold)
		}
	}
	isEntered := func(h *recentHold) bool { return h.entered }
	t.made = slices.DeleteFunc(t.made, isEntered)
	t.settled = slices.DeleteFunc(t.settled, isEntered)
	t.told = len(t.settled)
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
	type recalled struct {
		record
		row int64
	}
	var records []recalled
	var holds [][]string
	for _, r := range all {
		w.tail.next = r.seq + 1
		if len(r.records) == 0 || r.records[0] != tailFormat {
			return errors.New("a row of ledger_tail has an unknown format")
		}
		err := readRecords(r.records[1:], func(record *record) error {
			if records = append(records, recalled{*record, r.seq}); record.kind == store.KindHold {
				holds = append(holds, append(entryIDs(record.hold), string(record.hold)))
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	entered, err := w.entered(holds)
	if err != nil {
		return err
	}
	for i := range records {
		if r := &records[i]; !entered[r.hold] {
			if err := w.recall(&r.record, r.row); err != nil {
				return err
			}
		}
	}
	for _, r := range w.tail.loaded() {
		if row, ok := messageOf(&r); ok { // whoever has entered it
			w.messages.fresh.add(row)
		}
	}
	return nil
}

// entered tells which of the holds, each with its ids in the ledger before its own, are
// entered.
func (w *writer) entered(holds [][]string) (map[store.HoldID]bool, error) {
	if len(holds) == 0 {
		return nil, nil
	}
	text, err := json.Marshal(holds)
	if err != nil {
		return nil, err
	}
	rows, err := w.conn.QueryContext(context.Background(), `SELECT j.value ->> 3 FROM json_each(?) j
		WHERE EXISTS (SELECT 1 FROM ledger WHERE id IN (j.value ->> 0, j.value ->> 1, j.value ->> 2))`, string(text))
	found, err := collect(rows, err, func(scan func(...any) error) (id store.HoldID, err error) { return id, scan(&id) })
	entered := make(map[store.HoldID]bool, len(found))
	for _, id := range found {
		entered[id] = true
	}
	return entered, err
}

// entryIDs are the ids of which one is in the ledger once a hold is entered.
func entryIDs(id store.HoldID) []string {
	return []string{id.EntryID(store.KindHold), id.EntryID(store.KindCapture), id.EntryID(store.KindRelease)}
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
	ids := entryIDs(id)
	n, err := w.commands.countHeld.number(ids[0], ids[1], ids[2])
	return n > 0, err
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
