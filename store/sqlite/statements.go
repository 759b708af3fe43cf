package sqlite

import (
	"context"
	"database/sql"
	"errors"
)

// statements are what the writer runs over and over.
type statements struct {
	selectWallet, deleteHold              *sql.Stmt
	selectEntry, selectHeld               *sql.Stmt
	selectMessages, selectCapture         *sql.Stmt
	insertFreeAdmission                   *sql.Stmt
	insertEvent, updateEvent, deleteEvent *sql.Stmt
}

// all are the statements by their text.
func (s *statements) all() map[string]**sql.Stmt {
	return map[string]**sql.Stmt{
		"SELECT rowid, currency, credited, available, held, captured FROM accounts WHERE id = ?":                                               &s.selectWallet,
		"DELETE FROM holds WHERE id = ? RETURNING account_id, app_id, amount":                                                                  &s.deleteHold,
		"SELECT kind, account_id, amount, ifnull(app_id, '') FROM ledger WHERE id = ?":                                                         &s.selectEntry,
		"SELECT account_id, amount, ifnull(app_id, '') FROM ledger WHERE id IN (?, ?, ?) LIMIT 1":                                              &s.selectHeld,
		"INSERT INTO free_admissions (app_id, at) VALUES (?, ?)":                                                                               &s.insertFreeAdmission,
		"SELECT key, seq FROM messages WHERE key = ?":                                                                                          &s.selectMessages,
		"SELECT account_id, ifnull(app_id, '') FROM ledger WHERE seq = ? AND message_id = ? AND kind = 'capture'":                              &s.selectCapture,
		"DELETE FROM outbox WHERE id = ?":                                                                                                      &s.deleteEvent,
		"UPDATE outbox SET attempts = attempts + 1, state = ?, due_at = ?, last_error = ? WHERE id = ? AND attempts = ? AND state = 'pending'": &s.updateEvent,
		`INSERT INTO outbox (id, app_id, event, state, received_at, due_at, last_error, payload)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING`: &s.insertEvent,
	}
}

// reads are what the other connections run over and over.
type reads struct {
	selectGrant, selectHolds, selectDue, selectEvent *sql.Stmt
}

// all are the statements by their text.
func (r *reads) all() map[string]**sql.Stmt {
	return map[string]**sql.Stmt{
		"SELECT k.id, k.expires_at, k.revoked_at IS NOT NULL, " + appColumns + `
			FROM api_keys k JOIN apps a ON a.id = k.app_id WHERE k.digest = ?`: &r.selectGrant,
		`SELECT j.value ->> 0, l.account_id, ifnull(l.app_id, ''), l.kind = 'capture'
			FROM json_each(?) j CROSS JOIN ledger l ON l.id IN (j.value ->> 1, j.value ->> 2, j.value ->> 3, j.value ->> 4)`: &r.selectHolds,
		"SELECT seq, id, due_at FROM outbox WHERE app_id = ? AND state = 'pending' ORDER BY due_at, seq LIMIT ?": &r.selectDue,
		"SELECT " + eventColumns + ", payload FROM outbox WHERE seq = ?":                                         &r.selectEvent,
	}
}

// preparer is a database or one connection to it.
type preparer interface {
	PrepareContext(ctx context.Context, query string) (*sql.Stmt, error)
}

func prepare(ctx context.Context, db preparer, statements map[string]**sql.Stmt) error {
	for query, statement := range statements {
		var err error
		if *statement, err = db.PrepareContext(ctx, query); err != nil {
			return err
		}
	}
	return nil
}

// finalize gives the statements back to SQLite, which otherwise keeps the
// write-ahead log of a database that it cannot close.
func finalize(statements map[string]**sql.Stmt) error {
	var errs []error
	for _, statement := range statements {
		if *statement != nil {
			errs = append(errs, (*statement).Close())
		}
	}
	return errors.Join(errs...)
}
