package sqlite

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

const (
	// arrivalRest is how long an event that is not delivered stays among the arrivals.
	arrivalRest = time.Second
	// arrivalChunk is how many are entered in the outbox at a time.
	arrivalChunk = 512
	// maxArrival is how large a payload may be, in bytes: to write a larger one twice
	// costs more than its row.
	maxArrival = 16 << 10
)

// arrivals are the newest events, in memory and in rows of outbox_recent.
//
// Most events are delivered in milliseconds. Those that one group receives are committed
// as records in a row that they share, and so is that they were delivered; a row goes when
// all of its events have gone. Only what is not delivered at once becomes a row of the
// outbox, with its three indexes. They belong to the writer.
type arrivals struct {
	byID map[store.EventID]*arrival
	made []*arrival // as they came
	// seq is that of the last event. first and next are those of the first row that may
	// be there and of the one to come.
	seq, first, next int64
	records          []byte // of the transaction under way
	gone             int    // how many of made the transaction under way has ended
	// lost: memory was dropped, and all in the table is to be entered.
	lost  bool
	again time.Time // none are entered before by themselves; see tidyArrivals
	// newest is an id up to which there may be events in the outbox.
	newest store.EventID
}

// arrival is an event that is not in the outbox.
type arrival struct {
	freshEvent
	row  int64 // of outbox_recent
	gone bool  // it is delivered, or entered
}

// The kinds of records. They are never given another meaning.
const (
	arrived  = 'e'
	departed = 'd'
	// arrivalFormat is the first byte of a row, before its records.
	arrivalFormat = 1
)

func newArrivals() arrivals {
	return arrivals{byID: make(map[store.EventID]*arrival), next: 1, lost: true, newest: store.NewEventID()}
}

// find returns an event that is here.
func (a *arrivals) find(id store.EventID) *arrival {
	if one := a.byID[id]; one != nil && !one.gone {
		return one
	}
	return nil
}

// forget drops what is in memory.
func (a *arrivals) forget() {
	for id := range a.byID {
		a.newest = max(a.newest, id)
	}
	clear(a.byID)
	a.made, a.records, a.gone, a.lost = nil, a.records[:0], 0, true
}

// committed drops what has gone.
func (a *arrivals) committed() {
	a.records = a.records[:0]
	if a.gone == 0 {
		return
	}
	a.gone = 0
	for _, one := range a.made {
		if one.gone {
			delete(a.byID, one.ID)
		}
	}
	a.made = slices.DeleteFunc(a.made, func(one *arrival) bool { return one.gone })
}

// record begins a record.
func (a *arrivals) record(kind byte, seq int64) {
	if len(a.records) == 0 {
		a.records = append(a.records, arrivalFormat)
	}
	a.records = binary.AppendVarint(append(a.records, kind), seq)
}

// arrive adds an event, of which the row has to be written.
func (a *arrivals) arrive(e freshEvent) {
	one := &arrival{freshEvent: e, row: a.next}
	a.byID[e.ID] = one
	a.made = append(a.made, one)
	a.record(arrived, e.seq)
	a.records = binary.AppendVarint(a.records, e.ReceivedAt.UnixMicro())
	for _, text := range [...]string{string(e.ID), string(e.App), string(e.Name), e.LastError} {
		a.records = appendText(a.records, text)
	}
	a.records = append(binary.AppendUvarint(a.records, uint64(len(e.Payload))), e.Payload...)
}

// end notes that an event is delivered, or entered.
func (a *arrivals) end(one *arrival) {
	one.gone = true
	a.gone++
	a.record(departed, one.seq)
}

// readArrivals adds the events of one row to those that have not gone, and takes away
// those that have, up to an error.
func readArrivals(b []byte, to map[int64]freshEvent) error {
	if len(b) == 0 || b[0] != arrivalFormat {
		return errors.New("a row of outbox_recent has an unknown format")
	}
	for b = b[1:]; len(b) > 0; {
		kind, rest := b[0], reader{b: b[1:]}
		seq := rest.number()
		switch kind {
		case arrived:
			at := rest.number()
			e := store.Event{
				ID: store.EventID(rest.text()), App: tenant.AppID(rest.text()), Name: tenant.Event(rest.text()), State: store.Pending,
				LastError: rest.text(), Payload: []byte(rest.text()),
			}
			if !rest.short {
				to[seq] = newFreshEvent(&e, seq, at)
			}
		case departed:
			delete(to, seq)
		default:
			return fmt.Errorf("a record of outbox_recent is of the unknown kind %q", kind)
		}
		if rest.short {
			return errors.New("a record of outbox_recent is cut off")
		}
		b = rest.b
	}
	return nil
}

// recoverArrivals enters all that is in the table, where memory does not have it. What
// changes arrivals calls it first.
func (w *writer) recoverArrivals() error {
	a := &w.arrivals
	if !a.lost {
		return nil
	}
	rows, err := w.conn.QueryContext(context.Background(), "SELECT seq, records FROM outbox_recent ORDER BY seq")
	events := make(map[int64]freshEvent)
	var damaged []store.Event
	seqs, err := collect(rows, err, func(scan func(...any) error) (seq int64, err error) {
		var records []byte
		if err = scan(&seq, &records); err == nil {
			if why := readArrivals(records, events); why != nil {
				damaged = append(damaged, store.Event{LastError: why.Error(), Payload: records})
			}
		}
		return seq, err
	})
	if err != nil {
		return err
	}
	if a.seq, err = w.commands.lastEvent.number(); err != nil {
		return err
	}
	for _, seq := range slices.Sorted(maps.Keys(events)) {
		e := events[seq]
		if _, err := w.insertEvent(&e, store.Pending, 0, e.NextAttemptAt, e.LastError); err != nil {
			return err
		}
	}
	if err := w.setAside(damaged); err != nil {
		return err
	}
	if len(seqs) > 0 {
		a.next = max(a.next, seqs[len(seqs)-1]+1)
		if _, err := w.commands.deleteArrivals.exec(a.next); err != nil {
			return err
		}
	}
	a.first, a.lost, w.shown = a.next, false, true
	return nil
}

// setAside quarantines rows that cannot be read to their end: what is behind that would
// otherwise keep all webhooks waiting, for ever.
func (w *writer) setAside(damaged []store.Event) error {
	for i := range damaged {
		w.arrivals.seq++
		e := newFreshEvent(&damaged[i], w.arrivals.seq, w.clock().UnixMicro())
		e.ID = store.NewEventID()
		if _, err := w.insertEvent(&e, store.Quarantined, 0, e.NextAttemptAt, e.LastError); err != nil {
			return err
		}
		w.log().Error("a part of the outbox cannot be read and is quarantined", zap.String("event_id", string(e.ID)), zap.String("error", e.LastError))
	}
	return nil
}

// enterArrivals enters the first arrivals, at most so many, that are due to be.
func (w *writer) enterArrivals(most int, due func(time.Time) bool) error {
	if err := w.recoverArrivals(); err != nil {
		return err
	}
	for _, one := range w.arrivals.made {
		if most == 0 || !due(one.ReceivedAt) {
			break
		}
		if one.gone {
			continue
		}
		if _, err := w.insertEvent(&one.freshEvent, store.Pending, 0, one.NextAttemptAt, one.LastError); err != nil {
			return err
		}
		w.arrivals.end(one)
		most--
	}
	return nil
}

// enterAllArrivals enters them all.
func (w *writer) enterAllArrivals() error {
	return w.enterArrivals(len(w.arrivals.made), func(time.Time) bool { return true })
}

// insertEvent writes a row of the outbox, unless there is one with the id.
func (w *writer) insertEvent(e *freshEvent, state store.EventState, attempts int, due time.Time, lastError string) (fresh bool, err error) {
	a := &w.arrivals
	a.newest, a.seq = max(a.newest, e.ID), max(a.seq, e.seq)
	for {
		n, err := w.commands.insertEvent.exec(e.seq, string(e.ID), null(e.App), string(e.Name), string(state), int64(attempts),
			e.ReceivedAt.UnixMicro(), due.UnixMicro(), null(lastError), blob(e.Payload))
		if err == nil || !strings.Contains(err.Error(), "outbox.seq") {
			return n > 0, err
		}
		a.seq++ // a hand that knows better has added to the outbox
		e.seq = a.seq
	}
}

// knowsEvent tells whether an event was received before and is not delivered. The outbox
// is asked for those alone that may be in it: ids grow with time.
func (w *writer) knowsEvent(id store.EventID) (bool, error) {
	a := &w.arrivals
	if a.byID[id] != nil {
		return true, nil
	}
	if id > a.newest && !tenant.IsDerivedID(string(id)) {
		return false, nil
	}
	n, err := w.commands.countEvent.number(string(id))
	return n > 0, err
}

// settleArrival writes down the outcome of an attempt.
func (w *writer) settleArrival(one *arrival, a store.Attempt) (err error) {
	switch a.Result {
	case store.Failed:
		_, err = w.insertEvent(&one.freshEvent, store.Pending, 1, a.NextAttemptAt, a.Error)
	case store.GivenUp:
		_, err = w.insertEvent(&one.freshEvent, store.Dead, 1, w.clock(), a.Error)
	}
	if err == nil {
		w.arrivals.end(one)
	}
	return err
}

// writeArrivals writes down what the transaction under way has added, and deletes the rows
// of which everything has gone.
func (w *writer) writeArrivals() error {
	a := &w.arrivals
	if len(a.records) == 0 {
		return nil
	}
	first := a.next
	for _, one := range a.made {
		if !one.gone {
			first = one.row
			break
		}
	}
	if a.gone > 0 && a.first < first {
		if _, err := w.commands.deleteArrivals.exec(first); err != nil {
			return err
		}
		a.first = first
	}
	if a.gone == len(a.made) {
		return nil
	}
	_, err := w.commands.insertArrivals.exec(a.next, a.records)
	a.next++
	return err
}

// arrivalsDue tells whether some are to be entered.
func (w *writer) arrivalsDue() bool {
	a := &w.arrivals
	return a.lost || len(a.made) > 0 && w.rested(a.made[0].ReceivedAt)
}

// rested tells whether an arrival of that time has been here for long, by the clock or,
// where that was set back, in the future.
func (w *writer) rested(at time.Time) bool {
	age := w.clock().Sub(at)
	return age > arrivalRest || age < -arrivalRest
}

// tidyArrivals enters those that have been here for long, in a transaction of their own.
func (w *writer) tidyArrivals() {
	err := w.alone(func() error { return w.enterArrivals(arrivalChunk, w.rested) })
	if err != nil {
		w.arrivals.again = time.Now().Add(tidyRetry) // the ledger does not wait for it
		w.log().Error("events could not be entered in the outbox and stay in its newest part", zap.Error(err))
	}
}

// showArrivals has all events be in the outbox, for who reads there.
func (s *Store) showArrivals(ctx context.Context) error {
	if s.lock == nil {
		var any bool
		err := s.reading.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM outbox_recent)").Scan(&any)
		if err != nil || !any {
			return s.readError(err)
		}
	}
	return s.writer.do(ctx, &operation{apply: (*writer).showAll})
}

// showAll has all events be in the outbox once the transaction under way is committed: it
// may be what has entered some, and fail.
func (w *writer) showAll() error {
	a := &w.arrivals
	if w.windows != nil && !w.open && !a.lost && len(a.made) == 0 {
		w.claims.show()
		return nil
	}
	if _, err := w.begin(); err != nil {
		return err
	}
	if w.windows == nil { // they are the gateway's, which may have written
		a.lost = true
	}
	err := w.enterAllArrivals()
	w.shown = err == nil
	return err
}
