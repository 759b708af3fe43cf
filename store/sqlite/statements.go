package sqlite

import (
	"context"
	"database/sql"
	"errors"
)

// statements are what the writer runs over and over.
type statements struct {
	selectWallet, deleteHold      *sql.Stmt
	selectEntry                   *sql.Stmt
	selectMessages, selectCapture *sql.Stmt
	insertFreeAdmission           *sql.Stmt
}

// all are the statements by their text.
func (s *statements) all() map[string]**sql.Stmt {
	return map[string]**sql.Stmt{
		"SELECT rowid, currency, credited, available, held, captured FROM accounts WHERE id = ?":                  &s.selectWallet,
		"DELETE FROM holds WHERE id = ? RETURNING account_id, app_id, amount":                                     &s.deleteHold,
		"SELECT kind, account_id, amount, ifnull(app_id, '') FROM ledger WHERE id = ?":                            &s.selectEntry,
		"INSERT INTO free_admissions (app_id, at) VALUES (?, ?)":                                                  &s.insertFreeAdmission,
		"SELECT key, seq FROM messages WHERE key = ?":                                                             &s.selectMessages,
		"SELECT account_id, ifnull(app_id, '') FROM ledger WHERE seq = ? AND message_id = ? AND kind = 'capture'": &s.selectCapture,
	}
}

// reads are what the other connections run over and over.
type reads struct {
	selectGrant, selectSender, selectDue, selectEvent *sql.Stmt
}

// all are the statements by their text.
func (r *reads) all() map[string]**sql.Stmt {
	return map[string]**sql.Stmt{
		"SELECT k.id, k.expires_at, k.revoked_at IS NOT NULL, " + appColumns + `
			FROM api_keys k JOIN apps a ON a.id = k.app_id WHERE k.digest = ?`: &r.selectGrant,
		selectSender: &r.selectSender,
		"SELECT seq, id, due_at FROM outbox WHERE app_id = ? AND state = 'pending' AND seq NOT BETWEEN ? AND ? ORDER BY due_at, seq LIMIT ?": &r.selectDue,
		"SELECT " + eventColumns + ", payload FROM outbox WHERE seq = ?":                                                                     &r.selectEvent,
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
