package sqlite

import (
	"context"
	"database/sql"
	"strconv"
)

// The ledger has no index of SQLite's for what comes in no order: each send would have a page
// of its own written. Two tables take their place, into which many thousands of sends are
// sorted at a time: one finds messages, the other an account's entries.

// indexChunk is how many rows of a batch one commit writes, so that none takes long: in a large
// index, each has a page of its own. They are twice the sends of a tailChunk, so that a
// batch is written before the next one has come.
const indexChunk = 2 * tailChunk

// batch is what is sorted into an index together, some of it with each commit.
type batch[T any] struct {
	rows    []T
	written int // by transactions that are committed
	writing int // and by the one under way
}

// chunk returns what the transaction under way has to write, at most so many rows, and tells
// whether they are the last of the batch.
func (b *batch[T]) chunk(most int) (rows []T, last bool) {
	rows = b.rows[b.written:min(b.written+most, len(b.rows))]
	b.writing = len(rows)
	return rows, b.written+b.writing == len(b.rows)
}

// committed tells whether the batch is written now, which is then empty.
func (b *batch[T]) committed() bool {
	b.written, b.writing = b.written+b.writing, 0
	if b.written == 0 || b.written < len(b.rows) {
		return false
	}
	*b = batch[T]{}
	return true
}

// rolledBack has the transaction under way have written nothing.
func (b *batch[T]) rolledBack() { b.writing = 0 }

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
