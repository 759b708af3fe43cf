package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"runtime/debug"
	"slices"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// outboxGroup bounds how many events one step moves, so that sends need not
// wait for all of them.
const outboxGroup = 250

// eventPage is how many events are read at a time.
const eventPage = 500

// commandPause is how long a command waits between two groups: SQLite's lock is
// not fair, and a gateway may want it.
const commandPause = 50 * time.Millisecond

// Receive implements [store.Store].
func (s *Store) Receive(ctx context.Context, events []store.Event, statuses []store.Status) ([]store.StatusResult, error) {
	size := len(events) + len(statuses)
	if size == 0 {
		return nil, ctx.Err()
	}
	return s.receive(ctx, size, func(*writer) ([]store.Event, []store.Status, error) { return events, statuses, nil })
}

// ReceiveHeld implements [store.HoldReceiver].
func (s *Store) ReceiveHeld(ctx context.Context, ids []store.HoldID, size int, follows func(map[store.HoldID]store.Sender) ([]store.Event, []store.Status)) ([]store.StatusResult, error) {
	return s.receive(ctx, size, func(w *writer) (events []store.Event, statuses []store.Status, err error) {
		senders, err := w.senders(ids)
		if err != nil {
			return nil, nil, err
		}
		defer func() {
			if p := recover(); p != nil { // nobody else's operations are to fail with it
				err = changeError{fmt.Errorf("panic: %v\n%s", p, debug.Stack())}
			}
		}()
		events, statuses = follows(senders)
		return events, statuses, nil
	})
}

// receive stores what is to be received, which the writer is told in its turn.
func (s *Store) receive(ctx context.Context, size int, what func(*writer) ([]store.Event, []store.Status, error)) ([]store.StatusResult, error) {
	share := min(int64(size), outboxGroup)
	if err := s.receiving.Acquire(ctx, share); err != nil {
		return nil, err
	}
	defer s.receiving.Release(share)
	var results []store.StatusResult
	err := s.writer.do(ctx, &operation{apply: func(w *writer) error {
		if _, err := w.begin(); err != nil {
			return err
		}
		events, statuses, err := what(w)
		if err != nil {
			return err
		}
		if err := w.insertEvents(events); err != nil {
			return err
		}
		results = make([]store.StatusResult, len(statuses))
		for i := range statuses {
			if results[i], err = w.applyStatus(statuses[i]); err != nil {
				return err
			}
		}
		return nil
	}})
	if err != nil { // the writer may still be at it
		return nil, err
	}
	return results, nil
}

func (w *writer) insertEvents(events []store.Event) error {
	if err := w.recoverArrivals(); err != nil {
		return err
	}
	now := w.clock().UnixMicro()
	quarantined := false
	for i := range events {
		if known, err := w.knowsEvent(events[i].ID); known || err != nil {
			if err != nil {
				return err
			}
			continue
		}
		w.arrivals.seq++
		e := newFreshEvent(&events[i], w.arrivals.seq, now)
		if e.State == store.Pending && w.windows != nil {
			e.entered = len(e.Payload) > maxArrival || !w.claims.hasRoom(e.App, len(e.Payload))
			w.received = append(w.received, e)
			if !e.entered {
				w.arrivals.arrive(e)
				continue
			}
		}
		if _, err := w.insertEvent(&e, e.State, 0, e.NextAttemptAt, e.LastError); err != nil {
			return err
		}
		quarantined = quarantined || e.State == store.Quarantined
	}
	if !quarantined {
		return nil
	}
	_, err := w.write(trimQuarantine, store.MaxQuarantined, store.MaxQuarantinedSize)
	return err
}

// trimQuarantine deletes the oldest of too many, or too large, quarantined events.
const trimQuarantine = `DELETE FROM outbox WHERE seq IN (
	SELECT seq FROM (
		SELECT seq, row_number() OVER newest AS number, sum(length(payload)) OVER newest AS size
		FROM outbox WHERE state = 'quarantined' WINDOW newest AS (ORDER BY received_at DESC, seq DESC))
	WHERE number > ? OR size > ?)`

// blob is a BLOB that is not NULL.
func blob(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// Backlog implements [store.Store]. It goes from app to app in the index and
// so takes no longer where an app has many events.
func (s *Store) Backlog(ctx context.Context) (map[tenant.AppID]time.Time, error) {
	backlog := make(map[tenant.AppID]time.Time)
	s.claims.backlog(backlog) // before it is asked what they hide: it may become hidden at any moment
	if s.lock == nil || s.claims.hides() {
		if err := s.showArrivals(ctx); err != nil {
			return nil, err
		}
	}
	rows, err := s.reading.QueryContext(ctx, `WITH RECURSIVE backlog (app_id) AS (
			SELECT min(app_id) FROM outbox WHERE state = 'pending'
			UNION ALL
			SELECT (SELECT min(app_id) FROM outbox WHERE state = 'pending' AND app_id > backlog.app_id) FROM backlog WHERE app_id IS NOT NULL)
		SELECT app_id, (SELECT min(due_at) FROM outbox WHERE state = 'pending' AND app_id = backlog.app_id) FROM backlog WHERE app_id IS NOT NULL`)
	if err != nil {
		return nil, s.readError(err)
	}
	defer rows.Close()
	for rows.Next() {
		var app tenant.AppID
		var due int64
		if err := rows.Scan(&app, &due); err != nil {
			return nil, s.readError(err)
		}
		if at, ok := backlog[app]; !ok || due < at.UnixMicro() {
			backlog[app] = time.UnixMicro(due).UTC()
		}
	}
	return backlog, s.readError(rows.Err())
}

// Bury implements [store.Store]. It looks for the events outside the writer,
// because it may have to pass over many.
func (s *Store) Bury(ctx context.Context, app tenant.AppID, before time.Time, reason string) (int, error) {
	if err := s.showArrivals(ctx); err != nil {
		return 0, err
	}
	for buried := 0; ; {
		rows, err := s.reading.QueryContext(ctx, `SELECT id FROM outbox WHERE app_id = ? AND state = 'pending' AND received_at < ?
			AND id NOT IN (SELECT value FROM json_each(?)) LIMIT ?`, app, before.UnixMicro(), s.claimedEvents(app), outboxGroup)
		found, err := collect(rows, err, func(scan func(...any) error) (id store.EventID, err error) { return id, scan(&id) })
		if err != nil || len(found) == 0 {
			return buried, s.readError(err)
		}
		n, err := s.buryUnclaimed(ctx, app, found, before, reason)
		if buried += n; err != nil || len(found) < outboxGroup {
			return buried, err
		}
	}
}

// buryUnclaimed buries what was found, if it still is what it was. Nothing is
// claimed meanwhile. Claims that have run out are over with it: after a replay
// their outcome would be that of another delivery.
func (s *Store) buryUnclaimed(ctx context.Context, app tenant.AppID, found []store.EventID, before time.Time, reason string) (int, error) {
	s.claims.looking.Lock()
	defer s.claims.looking.Unlock()
	claimed := s.claims.of(app, s.writer.clock())
	s.claims.dropOthers(app, found, claimed)
	return s.move(ctx, func(w *writer) (int64, error) {
		return w.write(`UPDATE outbox SET state = 'dead', due_at = ?, last_error = ? WHERE id IN (SELECT value FROM json_each(?))
			AND state = 'pending' AND received_at < ? AND id NOT IN (SELECT value FROM json_each(?))`,
			w.clock().UnixMicro(), reason, list(found), before.UnixMicro(), list(slices.Collect(maps.Keys(claimed))))
	})
}

// claimedEvents lists the claimed events of an app, for json_each.
func (s *Store) claimedEvents(app tenant.AppID) string {
	return list(slices.Collect(maps.Keys(s.claims.of(app, s.writer.clock()))))
}

// list writes values for json_each.
func list[T ~string](values []T) string {
	if values == nil {
		return "[]" // and not null, which json_each takes for a value
	}
	text, err := json.Marshal(values)
	if err != nil {
		panic(err) // they are texts
	}
	return string(text)
}

// sweepDeadLetters deletes those that are too old, some at a time, and tells
// whether there may be more.
func (w *writer) sweepDeadLetters() bool {
	n, err := w.write("DELETE FROM outbox WHERE seq IN (SELECT seq FROM outbox WHERE state = 'dead' AND due_at < ? LIMIT ?)",
		w.clock().Add(-store.DeadLetterLifetime).UnixMicro(), outboxGroup)
	return err == nil && n == outboxGroup
}

// Replay implements [store.Store].
func (s *Store) Replay(ctx context.Context, ids []store.EventID, app tenant.AppID) (int, error) {
	const revive = `UPDATE outbox SET state = 'pending', attempts = 0, received_at = ?1, due_at = ?1
		WHERE seq IN (SELECT seq FROM outbox WHERE state = 'dead' AND `
	if len(ids) == 0 {
		began := s.writer.clock().UnixMicro() // what is given up again meanwhile is left
		for replayed := 0; ; {
			n, err := s.move(ctx, func(w *writer) (int64, error) {
				return w.write(revive+"app_id = ?2 AND due_at <= ?3 LIMIT ?4)", w.clock().UnixMicro(), app, began, outboxGroup)
			})
			if replayed += n; err != nil || n < outboxGroup {
				return replayed, err
			}
			if s.lock == nil {
				time.Sleep(commandPause)
			}
		}
	}
	return s.move(ctx, func(w *writer) (int64, error) {
		var missing int
		err := w.conn.QueryRowContext(context.Background(), `SELECT count(*) FROM json_each(?) WHERE NOT EXISTS (
			SELECT 1 FROM outbox WHERE id = value AND state = 'dead')`, list(ids)).Scan(&missing)
		if err != nil {
			return 0, err
		}
		if missing > 0 {
			return 0, store.ErrNotFound
		}
		return w.write(revive+"id IN (SELECT value FROM json_each(?2)))", w.clock().UnixMicro(), list(ids))
	})
}

// move has the writer run a step that moves events, and returns how many. What is known of
// those that are not claimed is forgotten with it, whoever still waits for it.
func (s *Store) move(ctx context.Context, step func(*writer) (int64, error)) (int, error) {
	var n int64
	err := s.writer.do(ctx, &operation{apply: func(w *writer) (err error) {
		if _, err = w.begin(); err != nil {
			return err
		}
		w.moved = true
		n, err = step(w)
		return err
	}})
	if err != nil { // the writer may still be at it
		return 0, err
	}
	return int(n), nil
}

// write changes what no cache holds.
func (w *writer) write(query string, values ...any) (int64, error) {
	result, err := w.conn.ExecContext(context.Background(), query, values...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// eventColumns are what scanEvent reads.
const eventColumns = "id, ifnull(app_id, ''), event, state, attempts, received_at, due_at, ifnull(last_error, '')"

func scanEvent(scan func(...any) error, more ...any) (e store.Event, err error) {
	var received, due int64
	err = scan(append([]any{&e.ID, &e.App, &e.Name, &e.State, &e.Attempts, &received, &due, &e.LastError}, more...)...)
	e.ReceivedAt = time.UnixMicro(received).UTC()
	if e.State == store.Pending {
		e.NextAttemptAt = time.UnixMicro(due).UTC()
	}
	return e, err
}

// Events implements [store.Store]. It reads them in pages, so that whoever takes
// long over them keeps no transaction open, and with it the write-ahead log.
func (s *Store) Events(ctx context.Context, f store.EventFilter) iter.Seq2[store.Event, error] {
	query, values := "SELECT seq, "+eventColumns+" FROM outbox WHERE seq > ?", []any{int64(0)}
	switch {
	case f.App == "":
	case f.State == store.Dead:
		query, values = query+" AND app_id = ?", append(values, f.App)
	default: // the index of what is pending is in another order, and would have to be sorted for each page
		query, values = query+" AND +app_id = ?", append(values, f.App)
	}
	if f.State != "" {
		query, values = query+" AND state = ?", append(values, f.State)
	}
	query += fmt.Sprintf(" ORDER BY seq LIMIT %d", eventPage)
	return func(yield func(store.Event, error) bool) {
		values := slices.Clone(values)
		if err := s.showArrivals(ctx); err != nil {
			yield(store.Event{}, err)
			return
		}
		for {
			var last int64
			rows, err := s.reading.QueryContext(ctx, query, values...)
			page, err := collect(rows, err, func(scan func(...any) error) (store.Event, error) {
				return scanEvent(func(columns ...any) error { return scan(append([]any{&last}, columns...)...) })
			})
			if err != nil {
				yield(store.Event{}, s.readError(err))
				return
			}
			for _, e := range page {
				if !yield(e, nil) {
					return
				}
			}
			if len(page) < eventPage {
				return
			}
			values[0] = last
		}
	}
}

// Event implements [store.Store].
func (s *Store) Event(ctx context.Context, id store.EventID) (store.Event, error) {
	if err := s.showArrivals(ctx); err != nil {
		return store.Event{}, err
	}
	return s.event(s.reading.QueryRowContext(ctx, "SELECT "+eventColumns+", payload FROM outbox WHERE id = ?", id))
}

// event reads one event, payload included.
func (s *Store) event(row *sql.Row) (store.Event, error) {
	var payload []byte
	e, err := scanEvent(row.Scan, &payload)
	if err != nil {
		return store.Event{}, s.readError(err)
	}
	e.Payload = payload
	return e, nil
}
