package sqlite

import (
	"context"
	"encoding/json"
	"iter"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// outboxGroup bounds how many events one step moves, so that sends need not
// wait for all of them.
const outboxGroup = 1_000

// Receive implements [store.Store].
func (s *Store) Receive(ctx context.Context, events []store.Event, statuses []store.Status) ([]store.StatusResult, error) {
	results := make([]store.StatusResult, len(statuses))
	err := s.writer.do(ctx, &operation{apply: func(w *writer) error {
		if len(events)+len(statuses) == 0 {
			return nil
		}
		if _, err := w.begin(); err != nil {
			return err
		}
		if err := w.insertEvents(events); err != nil {
			return err
		}
		for i := range statuses {
			var err error
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
	now := w.clock().UnixMicro()
	quarantined := false
	for i := range events {
		e := &events[i]
		_, err := w.statements.insertEvent.Exec(e.ID, null(e.App), e.Name, e.State, now, now, null(e.LastError), append([]byte{}, e.Payload...))
		if err != nil {
			return err
		}
		quarantined = quarantined || e.State == store.Quarantined
	}
	if !quarantined {
		return nil
	}
	_, err := w.conn.ExecContext(context.Background(), `DELETE FROM outbox WHERE seq IN (
		SELECT seq FROM (
			SELECT seq, row_number() OVER newest AS number, sum(length(payload)) OVER newest AS size
			FROM outbox WHERE state = 'quarantined' WINDOW newest AS (ORDER BY seq DESC))
		WHERE number > ? OR size > ?)`, store.MaxQuarantined, store.MaxQuarantinedSize)
	return err
}

// Backlog implements [store.Store]. It goes from app to app in the index and
// so takes no longer where an app has many events.
func (s *Store) Backlog(ctx context.Context) (map[tenant.AppID]time.Time, error) {
	rows, err := s.reading.QueryContext(ctx, `WITH RECURSIVE backlog (app_id) AS (
			SELECT min(app_id) FROM outbox WHERE state = 'pending'
			UNION ALL
			SELECT (SELECT min(app_id) FROM outbox WHERE state = 'pending' AND app_id > backlog.app_id) FROM backlog WHERE app_id IS NOT NULL)
		SELECT app_id, (SELECT min(due_at) FROM outbox WHERE state = 'pending' AND app_id = backlog.app_id) FROM backlog WHERE app_id IS NOT NULL`)
	if err != nil {
		return nil, s.readError(err)
	}
	defer rows.Close()
	backlog := make(map[tenant.AppID]time.Time)
	for rows.Next() {
		var app tenant.AppID
		var due int64
		if err := rows.Scan(&app, &due); err != nil {
			return nil, s.readError(err)
		}
		backlog[app] = time.UnixMicro(due).UTC()
	}
	return backlog, s.readError(rows.Err())
}

// Bury implements [store.Store].
func (s *Store) Bury(ctx context.Context, app tenant.AppID, before time.Time, reason string) (int, error) {
	return s.inGroups(ctx, func(w *writer) (int64, error) {
		s.claims.mu.Lock()
		claimed, err := json.Marshal(s.claims.of(app, w.clock()))
		s.claims.mu.Unlock()
		if err != nil {
			return 0, err
		}
		return w.write(`UPDATE outbox SET state = 'dead', due_at = ?, last_error = ? WHERE seq IN (
			SELECT seq FROM outbox WHERE app_id = ? AND state = 'pending' AND received_at < ?
			AND id NOT IN (SELECT value FROM json_each(?)) LIMIT ?)`,
			w.clock().UnixMicro(), reason, app, before.UnixMicro(), string(claimed), outboxGroup)
	})
}

// Replay implements [store.Store].
func (s *Store) Replay(ctx context.Context, ids []store.EventID, app tenant.AppID) (int, error) {
	const revive = "UPDATE outbox SET state = 'pending', attempts = 0, due_at = ? WHERE seq IN (SELECT seq FROM outbox WHERE state = 'dead' AND "
	if len(ids) == 0 {
		return s.inGroups(ctx, func(w *writer) (int64, error) {
			return w.write(revive+"app_id = ? LIMIT ?)", w.clock().UnixMicro(), app, outboxGroup)
		})
	}
	list, err := json.Marshal(ids)
	if err != nil {
		return 0, err
	}
	var replayed int64
	err = s.writer.do(ctx, &operation{apply: func(w *writer) error {
		if _, err := w.begin(); err != nil {
			return err
		}
		var missing int
		err := w.conn.QueryRowContext(context.Background(), `SELECT count(*) FROM json_each(?) WHERE NOT EXISTS (
			SELECT 1 FROM outbox WHERE id = value AND state = 'dead')`, string(list)).Scan(&missing)
		if err != nil {
			return err
		}
		if missing > 0 {
			return store.ErrNotFound
		}
		replayed, err = w.write(revive+"id IN (SELECT value FROM json_each(?)))", w.clock().UnixMicro(), string(list))
		return err
	}})
	if err != nil { // the writer may still be at it
		return 0, err
	}
	return int(replayed), nil
}

// inGroups repeats a step that moves up to [outboxGroup] events until it moves
// fewer, and returns how many it has moved.
func (s *Store) inGroups(ctx context.Context, step func(*writer) (int64, error)) (int, error) {
	for moved := 0; ; {
		var n int64
		err := s.writer.do(ctx, &operation{apply: func(w *writer) (err error) {
			if _, err = w.begin(); err != nil {
				return err
			}
			n, err = step(w)
			return err
		}})
		if err != nil {
			return moved, err
		}
		if moved += int(n); n < outboxGroup {
			return moved, nil
		}
	}
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

// Events implements [store.Store].
func (s *Store) Events(ctx context.Context, f store.EventFilter) iter.Seq2[store.Event, error] {
	return func(yield func(store.Event, error) bool) {
		rows, err := s.reading.QueryContext(ctx, "SELECT "+eventColumns+` FROM outbox
			WHERE (?1 = '' OR app_id = ?1) AND (?2 = '' OR state = ?2) ORDER BY seq`, f.App, f.State)
		if err != nil {
			yield(store.Event{}, s.readError(err))
			return
		}
		defer rows.Close()
		for rows.Next() {
			e, err := scanEvent(rows.Scan)
			if !yield(e, s.readError(err)) || err != nil {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(store.Event{}, s.readError(err))
		}
	}
}

// Event implements [store.Store].
func (s *Store) Event(ctx context.Context, id store.EventID) (store.Event, error) {
	return s.event(ctx, "id", id)
}

// event reads one event, payload included, by a column that tells it from others.
func (s *Store) event(ctx context.Context, column string, key any) (store.Event, error) {
	var payload []byte
	row := s.reading.QueryRowContext(ctx, "SELECT "+eventColumns+", payload FROM outbox WHERE "+column+" = ?", key)
	e, err := scanEvent(row.Scan, &payload)
	if err != nil {
		return store.Event{}, s.readError(err)
	}
	e.Payload = payload
	return e, nil
}
