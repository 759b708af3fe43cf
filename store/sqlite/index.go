package sqlite

import (
	"context"
	"database/sql"
	"strconv"
)

// The ledger has no index of SQLite's for what comes in no order: each send would have a page
// of its own written. Two tables take their place, into which many thousands of sends are
// sorted at a time: one finds messages, the other an account's entries.

// setIndexed writes down up to which seq the whole ledger is in an index, by the name of the
// setting.
func (w *writer) setIndexed(name string, seq int64) error {
	_, err := w.write("INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
		name, strconv.FormatInt(seq, 10))
	return err
}

// indexedUpTo is the seq up to which everything is in an index, by the name of the setting.
func indexedUpTo(ctx context.Context, db interface {
	QueryRowContext(context.Context, string, ...any) *sql.Row
}, setting string) (seq int64, err error) {
	err = db.QueryRowContext(ctx, "SELECT ifnull((SELECT CAST(value AS INTEGER) FROM settings WHERE name = ?), 0)", setting).Scan(&seq)
	return seq, err
}
