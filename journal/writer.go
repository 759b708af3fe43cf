package journal

import (
	"context"
	"database/sql"
	"errors"
	"sync/atomic"

	"github.com/connexease/caddy-whatsapp-gateway/sqlitefile"
)

const (
	// maxGroup and maxGroupSize (in bytes) bound what one commit writes, so that
	// nobody waits long for those behind him.
	maxGroup     = 512
	maxGroupSize = 16 << 20
	// The file is made small again when at least minFree bytes of it are free and
	// what is left is no more than a quarter of that and than maxKept, which takes a
	// fraction of a second to copy.
	minFree = 1 << 20
	maxKept = 32 << 20
)

// writer is the one goroutine that writes. Operations that wait while it commits
// go into the next commit together, because waiting for the disk is what costs.
type writer struct {
	conn    *sql.Conn
	waiting *atomic.Int64

	insert, remove, postpone, count *sql.Stmt

	operations chan *operation // unbuffered: received means taken charge of
	closing    chan struct{}
	closed     chan struct{}
	group      []*operation
}

// operation is one step that a caller waits for. An error of its apply fails all
// that are committed with it: it is the disk's, and so everybody's.
type operation struct {
	apply func(*writer) error
	size  int  // bytes that it writes, roughly
	frees bool // it takes something out
	err   error
	done  chan struct{}
}

// newWriter brings the file up to date and gets everything ready to write.
func newWriter(ctx context.Context, db *sql.DB, waiting *atomic.Int64) (_ *writer, err error) {
	w := &writer{
		waiting:    waiting,
		operations: make(chan *operation), closing: make(chan struct{}), closed: make(chan struct{}),
	}
	if w.conn, err = sqlitefile.Conn(ctx, db); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if err := prepareFile(ctx, w.conn); err != nil {
		return nil, err
	}
	for query, statement := range w.statements() {
		if *statement, err = w.conn.PrepareContext(ctx, query); err != nil {
			return nil, err
		}
	}
	return w, w.look()
}

// statements are what is run over and over, by their text.
func (w *writer) statements() map[string]**sql.Stmt {
	return map[string]**sql.Stmt{
		"INSERT INTO records (kind, body, at) VALUES (?, ?, ?)":            &w.insert,
		"DELETE FROM records WHERE id IN (SELECT value FROM json_each(?))": &w.remove,
		`UPDATE records SET attempts = attempts + 1, last_error = ?4,
			retry_at = ?1 + min(?3, ?2 << min(attempts, 30)) WHERE id = ?5`: &w.postpone,
		countRecords: &w.count,
	}
}

// run is the writer's goroutine.
func (w *writer) run() {
	defer close(w.closed)
	for {
		select {
		case op := <-w.operations:
			w.commit(op)
		case <-w.closing:
			return
		}
	}
}

// commit runs op and all operations that wait behind it, makes them durable and
// answers them.
func (w *writer) commit(op *operation) {
	err := w.exec("BEGIN IMMEDIATE")
	frees := false
	for size, more := 0, true; more; op, more = w.next(size) {
		w.group = append(w.group, op)
		if err == nil {
			err = op.apply(w)
		}
		size += op.size
		frees = frees || op.frees
	}
	if err == nil {
		err = w.look()
	}
	if err == nil {
		err = w.exec("COMMIT")
	}
	if err != nil {
		// SQLite itself has rolled back after some errors; a second time is refused
		// and changes nothing.
		_ = w.exec("ROLLBACK")
		_ = w.look() // if that fails, so does the next commit
	}
	for _, op := range w.group {
		op.err = err
		close(op.done)
	}
	clear(w.group)
	w.group = w.group[:0]
	if frees && err == nil {
		w.shrink()
	}
}

// next returns an operation that waits, if there is one and the group has room.
func (w *writer) next(size int) (*operation, bool) {
	if len(w.group) >= maxGroup || size >= maxGroupSize {
		return nil, false
	}
	select {
	case op := <-w.operations:
		return op, true
	default:
		return nil, false
	}
}

// look notes how many records there are.
func (w *writer) look() error {
	var n int64
	if err := w.count.QueryRow().Scan(&n); err != nil {
		return err
	}
	w.waiting.Store(n)
	return nil
}

// shrink gives the disk back what a long absence of the store has taken of it. It
// is left for the next time where another process is writing or the disk is full.
func (w *writer) shrink() {
	var free, used int64
	err := w.conn.QueryRowContext(context.Background(), `SELECT freelist_count * page_size, (page_count - freelist_count) * page_size
		FROM pragma_freelist_count, pragma_page_count, pragma_page_size`).Scan(&free, &used)
	if err != nil || free < minFree || used > min(free/4, maxKept) {
		return
	}
	if err := w.exec("VACUUM"); err != nil {
		return
	}
	_ = w.exec("PRAGMA wal_checkpoint(truncate)") // cuts both files
}

func (w *writer) exec(query string) error {
	_, err := w.conn.ExecContext(context.Background(), query)
	return err
}

// close gives back the statements, without which SQLite would keep the
// write-ahead log, and the connection.
func (w *writer) close() error {
	var errs []error
	for _, statement := range w.statements() {
		if *statement != nil {
			errs = append(errs, (*statement).Close())
		}
	}
	return errors.Join(append(errs, w.conn.Close())...)
}
