// Package journal is a durable queue on this machine's disk for what cannot wait
// in memory: while a store in the network is away, the outcomes of sends that
// Meta has accepted and the webhooks that Meta will not repeat for ever are
// written here, and taken out in their order when the store is back.
//
// It is one SQLite file in a folder of its own. Several processes may have it
// open, such as the two generations of a reload. Each of them may then be given
// the same record, and a crash gives a record again: what is done with one must
// be harmless when it is done twice.
package journal

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/sqlitefile"
)

// ErrClosed means that the journal was closed.
var ErrClosed = errors.New("journal is closed")

const (
	// NextSize bounds the bodies that [Journal.Next] returns together, in bytes; a
	// larger one comes alone.
	NextSize = 4 << 20
	// minRetry is how long a record rests after its first failure. Each further one
	// doubles that, up to maxRetry.
	minRetry = time.Minute
	maxRetry = time.Hour
)

// Record is what waits.
type Record struct {
	// ID tells records of a file apart and grows in the order of [Journal.Append].
	// No id comes twice. Append ignores it, and the fields below the body.
	ID int64
	// Kind says to the one who takes it out what the body is.
	Kind string
	Body []byte

	// At is when it was appended.
	At time.Time
	// Attempts is how often [Journal.Fail] was called for it, and LastError what
	// it was told the last time.
	Attempts  int
	LastError string
}

// Journal is an open journal. It is safe for concurrent use.
type Journal struct {
	path    string
	clock   func() time.Time
	writer  *writer
	writing *sql.DB
	reading *sql.DB
	waiting atomic.Int64

	closeOnce sync.Once
	closeErr  error
}

// Open opens the journal in a folder, and makes both where they are missing, for
// the owner's eyes alone. A file that is damaged, or not a journal, is left as it
// is: the error names it.
func Open(dir string) (_ *Journal, err error) {
	j := &Journal{path: filepath.Join(dir, "journal.db"), clock: time.Now}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("opening the journal %s: %w", j.path, err), j.closeDatabases())
		}
	}()
	if err := sqlitefile.Create(j.path); err != nil {
		return nil, err
	}
	ctx := context.Background() // SQLite's own time limit holds
	if j.writing, err = sqlitefile.Open(j.path, writing...); err != nil {
		return nil, err
	}
	if j.reading, err = sqlitefile.Open(j.path, "query_only(on)"); err != nil {
		return nil, err
	}
	j.reading.SetMaxOpenConns(2)
	w, err := newWriter(ctx, j.writing, &j.waiting)
	if err != nil {
		return nil, explain(err)
	}
	j.writer = w
	go w.run()
	return j, nil
}

// Append adds a record. It is on disk when Append returns without an error;
// appends that wait for the disk at the same time share the wait. After an error
// of the context, or one of the disk's own, it may be there all the same. The body
// must not be changed afterwards, not even after an error.
func (j *Journal) Append(ctx context.Context, r Record) error {
	at := j.clock().UnixMicro()
	body := r.Body
	if body == nil {
		body = []byte{} // which is not NULL
	}
	return j.do(ctx, &operation{size: len(body), apply: func(w *writer) error {
		_, err := w.insert.Exec(r.Kind, body, at)
		return err
	}})
}

// Next returns the records that are due, up to most of them and to
// [NextSize]: first those that never failed, oldest first, then those that have
// rested after a failure. They stay until [Journal.Done].
func (j *Journal) Next(ctx context.Context, most int) ([]Record, error) {
	records, err := j.due(ctx, most)
	if err != nil {
		return nil, j.readError(err)
	}
	if _, err := j.Len(ctx); err != nil {
		return nil, err
	}
	return records, nil
}

func (j *Journal) due(ctx context.Context, most int) (records []Record, err error) {
	rows, err := j.reading.QueryContext(ctx, `SELECT id, kind, body, at, attempts, ifnull(last_error, '')
		FROM records WHERE retry_at <= ? ORDER BY retry_at, id LIMIT ?`, j.clock().UnixMicro(), max(0, most))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for size := 0; rows.Next(); {
		var r Record
		var at int64
		if err := rows.Scan(&r.ID, &r.Kind, &r.Body, &at, &r.Attempts, &r.LastError); err != nil {
			return nil, err
		}
		if size += len(r.Body); size > NextSize && len(records) > 0 {
			break // one too many; it comes the next time
		}
		r.At = time.UnixMicro(at).UTC()
		records = append(records, r)
	}
	return records, rows.Err()
}

// Done takes records out. Ids that are not there are passed over.
func (j *Journal) Done(ctx context.Context, ids ...int64) error {
	if len(ids) == 0 {
		return nil
	}
	list, err := json.Marshal(ids)
	if err != nil {
		return err
	}
	return j.do(ctx, &operation{frees: true, apply: func(w *writer) error {
		_, err := w.remove.Exec(string(list))
		return err
	}})
}

// Fail lets a record rest that is itself what is wrong, so that it is kept and
// holds up nothing behind it: for a minute, and for twice as long each time, up
// to an hour. It is not for a store that is away: then the records are to
// be left as they are, in their order. The reason is for the operator and must
// hold no secret. An id that is not there is passed over.
func (j *Journal) Fail(ctx context.Context, id int64, reason string) error {
	now := j.clock().UnixMicro()
	return j.do(ctx, &operation{apply: func(w *writer) error {
		_, err := w.postpone.Exec(now, minRetry.Microseconds(), maxRetry.Microseconds(), reason, id)
		return err
	}})
}

// Len returns how many records there are, resting ones included.
func (j *Journal) Len(ctx context.Context) (int, error) {
	var n int64
	if err := j.reading.QueryRowContext(ctx, countRecords).Scan(&n); err != nil {
		return 0, j.readError(err)
	}
	j.waiting.Store(n)
	return int(n), nil
}

// Waiting returns what [Journal.Len] would have when this process last used the
// journal. It does no I/O.
func (j *Journal) Waiting() int64 { return j.waiting.Load() }

// Close waits for what is under way and closes the file. What is in it stays.
func (j *Journal) Close() error {
	j.closeOnce.Do(func() {
		close(j.writer.closing)
		<-j.writer.closed
		j.closeErr = errors.Join(j.writer.close(), j.closeDatabases())
	})
	return j.closeErr
}

func (j *Journal) closeDatabases() error {
	var errs []error
	for _, db := range []*sql.DB{j.reading, j.writing} { // the last to close tidies up, which a reader cannot
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(errs...)
}

// do has the writer run op and waits for it to be durable, or for the context.
func (j *Journal) do(ctx context.Context, op *operation) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	op.done = make(chan struct{})
	select {
	case j.writer.operations <- op:
	case <-j.writer.closing:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-op.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	if op.err != nil {
		return fmt.Errorf("journal %s: %w", j.path, explain(op.err))
	}
	return nil
}

// readError names the file, or says that the journal was closed.
func (j *Journal) readError(err error) error {
	select {
	case <-j.writer.closing:
		return ErrClosed
	default:
		return fmt.Errorf("journal %s: %w", j.path, explain(err))
	}
}
