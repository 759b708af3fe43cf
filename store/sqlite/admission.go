package sqlite

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/window"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// errShared means that an admission was asked of a store that is not exclusive.
var errShared = errors.New("the store was opened to administer, not to admit")

// errNegativeFee is a mistake of the caller's.
var errNegativeFee = errors.New("a fee cannot be negative")

// admitting is an admission under way. It is used again once its caller has the decision.
type admitting struct {
	operation
	admission store.Admission
	decision  store.Decision
}

var admissions = sync.Pool{New: func() any {
	op := new(admitting)
	op.done = make(chan struct{}, 1)
	op.apply = func(w *writer) (err error) {
		op.decision, err = w.admit(op.admission)
		return err
	}
	return op
}}

// Admit implements [store.Store].
func (s *Store) Admit(ctx context.Context, a store.Admission) (store.Decision, error) {
	op := admissions.Get().(*admitting)
	op.admission, op.decision = a, store.Decision{}
	finished, err := s.writer.within(ctx, s.admitTimes.Next(), &op.operation)
	if !finished { // the writer may still be at it
		return store.Decision{}, err
	}
	d := op.decision
	op.reset()
	admissions.Put(op)
	return d, err
}

// admit decides on one request and, where it is let through, writes it down.
func (w *writer) admit(a store.Admission) (store.Decision, error) {
	if w.windows == nil {
		return store.Decision{}, errShared
	}
	if w.broken != nil {
		return store.Decision{}, w.broken
	}
	if a.Fee < 0 {
		return store.Decision{}, errNegativeFee
	}
	if w.lost && !w.open { // a group has failed
		if _, err := w.refresh(); err != nil {
			return store.Decision{}, err
		}
	}
	ws := w.windows.get(a.App)
	if ws == nil {
		ws = w.windows.add(a.App)
	}
	for {
		d, wl, err := w.decide(ws, a)
		if err != nil {
			return d, err
		}
		outdated, err := w.outdated(d, a.Mode)
		if err != nil {
			return d, err
		}
		if outdated {
			continue
		}
		switch {
		case a.Mode == store.Check:
		case d.Verdict == store.Admitted:
			return w.admitted(ws, wl, a, d)
		case a.Mode == store.Hold:
			made, err := w.isMade(a.HoldID)
			if err != nil {
				return d, err
			}
			if made {
				d.Verdict = store.Admitted
				w.current.wrote = w.open // perhaps by this very group
			}
		}
		return d, nil
	}
}

// outdated tells whether a decision has to be made again because another
// process has written. It opens the transaction for what is to be written, and
// looks again before a refusal that a credit of a moment ago would avert.
func (w *writer) outdated(d store.Decision, mode store.Mode) (bool, error) {
	switch {
	case d.Verdict == store.Admitted && mode != store.Check:
		return w.begin()
	case d.Verdict == store.NoBalance && !w.open:
		return w.refresh()
	}
	return false, nil
}

// decide runs the checks in their order and changes nothing.
func (w *writer) decide(ws *window.Windows, a store.Admission) (store.Decision, *wallet, error) {
	ws.Expire(w.now())
	d := store.Decision{
		Second: store.Quota{Limit: a.Limits.PerSecond, Remaining: max(0, a.Limits.PerSecond-ws.Second.Total)},
		Minute: store.Quota{Limit: a.Limits.PerMinute, Remaining: max(0, a.Limits.PerMinute-ws.Minute.Total)},
	}
	if d.Minute.Remaining == 0 {
		d.Verdict = store.OverMinute
		return d, nil, nil
	}
	if d.Second.Remaining == 0 {
		d.Verdict = store.OverSecond
		return d, nil, nil
	}
	if a.Account == "" {
		d.Verdict = store.NoAccount
		return d, nil, nil
	}
	wl, err := w.wallet(a.Account)
	if errors.Is(err, store.ErrNotFound) {
		d.Verdict = store.NoAccount
		return d, nil, nil
	}
	if err != nil {
		return d, nil, err
	}
	if wl.Available <= 0 {
		d.Verdict = store.NoBalance
	}
	return d, wl, nil
}

// admitted counts the request, holds its fee and writes both down.
func (w *writer) admitted(ws *window.Windows, wl *wallet, a store.Admission, d store.Decision) (store.Decision, error) {
	at := w.admissionTime()
	if a.Mode == store.Hold {
		made, err := w.isMade(a.HoldID)
		if err != nil || made {
			return d, err
		}
		r := record{kind: store.KindHold, hold: a.HoldID, account: a.Account, app: a.App, amount: a.Fee,
			seq: w.seq + 1, balance: wl.Available - a.Fee, at: at.UnixMicro()}
		w.tail.hold(&r, w.tail.next)
		w.remember(&r)
		wl.Available -= a.Fee
		wl.Held += a.Fee
		w.current.made = a.HoldID
	} else if _, err := w.statements.insertFreeAdmission.Exec(a.App, at.UnixMicro()); err != nil {
		return d, err
	}
	now := at.Sub(w.epoch).Truncate(time.Microsecond)
	ws.Add(now, a.Limits.PerSecond, a.Limits.PerMinute)
	w.counted = append(w.counted, ws)
	d.Second.Remaining--
	d.Minute.Remaining--
	return d, nil
}

// isMade tells whether there is, or was, a hold of this id. The ledger is asked for
// those alone that may be in it: ids grow with time.
func (w *writer) isMade(id store.HoldID) (bool, error) {
	if w.tail.find(id) != nil {
		return true, nil
	}
	if id > w.tail.newest && w.tail.holds[id] == nil {
		return false, nil
	}
	return w.isEntered(id)
}

// rebuildWindows counts again what was admitted in the last minute, so that a
// restart admits nobody twice.
func (w *writer) rebuildWindows(ctx context.Context) error {
	w.windows = new(crowd[tenant.AppID, window.Windows])
	from, until := w.epoch.Add(-time.Minute).UnixMicro(), w.epoch.Add(time.Minute).UnixMicro()
	arrivals := make(map[tenant.AppID][]time.Duration)
	arrived := func(app tenant.AppID, at int64) {
		// What is in the future was written before the clock was set back: a
		// little counts as now, and much tells nothing.
		if from <= at && at < until {
			arrivals[app] = append(arrivals[app], min(0, time.UnixMicro(at).Sub(w.epoch)))
		}
	}
	for _, h := range w.tail.made {
		arrived(h.app, h.at)
	}
	// The ledger is read backwards, because its end is where the last minute is
	// and nothing but its end should be read.
	for _, query := range []string{
		`SELECT iif(kind = 'hold', id, ''), ifnull(app_id, ''), iif(kind = 'hold', at, ifnull(held_at, 0)), at FROM ledger ORDER BY seq DESC`,
		"SELECT 'free', app_id, at, at FROM free_admissions ORDER BY rowid DESC",
	} {
		rows, err := w.conn.QueryContext(ctx, query)
		if err != nil {
			return err
		}
		for rows.Next() {
			var id string // of a hold that is an entry of its own
			var app tenant.AppID
			var made, at int64
			if err := rows.Scan(&id, &app, &made, &at); err != nil {
				return errors.Join(err, rows.Close())
			}
			if at < from {
				break
			}
			if !tenant.IsDerivedID(id) {
				arrived(app, made)
			}
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return err
		}
	}
	for app, times := range arrivals {
		slices.Sort(times)
		// What was the limit then is unknown; that nobody passed it is not.
		ws := w.windows.add(app)
		for _, at := range times {
			ws.Minute.Add(at, len(times))
		}
		first, _ := slices.BinarySearch(times, -time.Second)
		for _, at := range times[first:] {
			ws.Second.Add(at, len(times)-first)
		}
	}
	return nil
}
