// Package sqlite is the embedded store: one file that a gateway, the command
// line and the operator's sqlite3 shell can use at the same time.
//
// One goroutine writes. Operations that arrive while it commits share the next
// commit, so that the cost of making them durable is shared, too. Rate windows
// and balances are decided on in memory: the windows belong to the one gateway
// that may serve from a file, and are rebuilt from it at start; the wallets
// are a cache of the file that is dropped when another process has written.
package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"

	"github.com/connexease/caddy-whatsapp-gateway/deadline"
	"github.com/connexease/caddy-whatsapp-gateway/sqlitefile"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/linger"
)

//go:embed migrations/*.sql
var migrations embed.FS

// applicationID marks the file as ours (PRAGMA application_id), "wagw" in ASCII.
const applicationID = 0x77616777

// maxReaders bounds the connections for reading, beside that of the keyChecker: a flood of
// look-ups must not use up the process's files.
const maxReaders = 8

// Options say how a database is opened. The zero value is the command line's:
// it shares the file and admits nothing.
type Options struct {
	// Exclusive makes this process the one gateway that admits requests on the
	// file; opening fails while there is another.
	Exclusive bool
	// Clock replaces time.Now in tests.
	Clock func() time.Time
}

// Store is a [store.Store] on one SQLite file.
type Store struct {
	writer  *writer
	writing *sql.DB
	reading *sql.DB
	lock    *lock // nil where not exclusive
	claims  *claims
	// admitTimes are how long admissions may take.
	admitTimes *deadline.Shared
	settlings  sync.Pool
	reads      reads
	keys       *keyChecker
	// receiving bounds the events and statuses that wait for one commit, so that
	// a flood of webhooks leaves room for sends between its commits.
	receiving *semaphore.Weighted

	closeOnce sync.Once
	closeErr  error
}

// Open opens the database at path, creating it and its folder where there is
// none, and brings its schema up to date.
func Open(ctx context.Context, path string, o Options) (_ *Store, err error) {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if err := sqlitefile.Create(path); err != nil {
		return nil, err
	}
	s := &Store{admitTimes: deadline.New(store.AdmitTimeout), receiving: semaphore.NewWeighted(outboxGroup)}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("opening %s: %w", path, err), s.closeDatabases())
		}
	}()
	if o.Exclusive {
		if s.lock, err = acquireLock(ctx, path+".lock"); err != nil {
			return nil, err
		}
	}
	// The cache takes what a large commit changes (in KiB, where negative); of a larger one SQLite has to look
	// through more whenever pages of an index have changed places. The write-ahead
	// log is copied into the database when it has so many pages, most of them time and again
	// where many accounts send, and is cut back after a reader has kept it growing (in bytes).
	s.writing, err = sqlitefile.Open(path,
		"journal_mode(wal)", "synchronous(full)", "foreign_keys(on)", "cache_size(-16384)", "wal_autocheckpoint(4000)", "journal_size_limit(67108864)")
	if err != nil {
		return nil, err
	}
	s.reading, err = sqlitefile.Open(path, "query_only(on)")
	if err != nil {
		return nil, err
	}
	s.reading.SetMaxOpenConns(maxReaders + 1) // one is that of the keyChecker
	s.reading.SetMaxIdleConns(maxReaders)
	w, err := newWriter(ctx, s.writing, o)
	if err != nil {
		return nil, err
	}
	s.writer, s.claims = w, w.claims
	err = prepare(ctx, s.reading, s.reads.all())
	if err == nil {
		s.keys, err = newKeyChecker(ctx, s.reading)
	}
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	go w.run()
	return s, nil
}

// newWriter brings the schema up to date and gets everything ready to write.
func newWriter(ctx context.Context, db *sql.DB, o Options) (_ *writer, err error) {
	epoch := o.Clock()
	epoch = epoch.Add(-time.Duration(epoch.Nanosecond()) % time.Microsecond) // to the whole microsecond
	w := &writer{
		clock: o.Clock, epoch: epoch,
		queue: newQueue(), linger: linger.New(minCommitInterval, maxCommitInterval), timer: time.NewTimer(0), closing: make(chan struct{}), closed: make(chan struct{}),
		earlyFees: make(map[string]earlyFee), replaced: make(map[string]earlyFee), claims: newClaims(), arrivals: newArrivals(),
		tail: newTail(), messages: messageIndex{size: messageBatch, fresh: new(buckets)}, accounts: accountIndex{size: accountBatch, chunk: accountChunk}, lost: true,
	}
	if w.conn, err = sqlitefile.Conn(ctx, db); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if err := migrate(ctx, w.conn); err != nil {
		return nil, err
	}
	if err := prepare(ctx, w.conn, w.statements.all()); err != nil {
		return nil, err
	}
	if err := w.commands.prepare(w.conn); err != nil {
		return nil, err
	}
	if _, err := w.refresh(); err != nil {
		return nil, err
	}
	if o.Exclusive {
		if err := w.rebuildWindows(ctx); err != nil {
			return nil, err
		}
		if err := w.loadMessages(ctx); err != nil {
			return nil, err
		}
		if err := w.loadAccounts(ctx); err != nil { // of memory that no failure has dropped
			return nil, err
		}
	}
	return w, nil
}

// Close implements [store.Store]. A store that was opened to administer, and did,
// leaves a gateway the time to notice: when a command has ended, it is in force.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		close(s.writer.closing)
		<-s.writer.closed
		if s.lock == nil && s.writer.changed {
			time.Sleep(2 * pollInterval)
		}
		s.closeErr = errors.Join(s.writer.close(), s.keys.close(), s.closeDatabases())
	})
	return s.closeErr
}

// SetLogger says where to log from now on.
func (s *Store) SetLogger(l *zap.Logger) { s.writer.logger.Store(l) }

func (s *Store) closeDatabases() error {
	errs := []error{finalize(s.reads.all())}
	for _, db := range []*sql.DB{s.reading, s.writing} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	if s.lock != nil { // last, when nothing is written any more
		errs = append(errs, s.lock.conn.Close(), s.lock.db.Close())
	}
	return errors.Join(errs...)
}

// lock is an exclusive transaction on a file of its own.
type lock struct {
	db   *sql.DB
	conn *sql.Conn
}

// acquireLock keeps the file at path locked for as long as the process lives.
// SQLite's locks work alike on every system and end with the process, however
// it ends.
func acquireLock(ctx context.Context, path string) (*lock, error) {
	if err := sqlitefile.Create(path); err != nil {
		return nil, err
	}
	db, err := sqlitefile.Open(path)
	if err != nil {
		return nil, err
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if _, err := conn.ExecContext(ctx, "BEGIN EXCLUSIVE"); err != nil {
		err = fmt.Errorf("another gateway is running on this database: %w", err)
		return nil, errors.Join(err, conn.Close(), db.Close())
	}
	return &lock{db, conn}, nil
}

// migrate brings the schema from whatever version it has to the newest, in one
// transaction. PRAGMA user_version is the number of migrations applied.
func migrate(ctx context.Context, conn *sql.Conn) (err error) {
	files, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return err
	}
	if _, err := conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	defer func() {
		end := "COMMIT"
		if err != nil {
			end = "ROLLBACK"
		}
		_, endErr := conn.ExecContext(context.WithoutCancel(ctx), end)
		err = errors.Join(err, endErr)
	}()
	var version, application, objects int
	err = conn.QueryRowContext(ctx, `SELECT user_version, application_id, (SELECT count(*) FROM sqlite_schema)
		FROM pragma_user_version, pragma_application_id`).Scan(&version, &application, &objects)
	switch {
	case err != nil:
		return err
	case application != applicationID && objects > 0:
		return errors.New("the file is a database of another program")
	case version > len(files):
		return fmt.Errorf("the database has schema version %d, made by a newer release; this one knows up to %d", version, len(files))
	case version == len(files):
		return nil
	}
	for _, file := range files[version:] {
		script, err := migrations.ReadFile(file)
		if err != nil {
			return err
		}
		if _, err := conn.ExecContext(ctx, string(script)); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	_, err = conn.ExecContext(ctx, fmt.Sprintf("PRAGMA application_id = %d; PRAGMA user_version = %d", applicationID, len(files)))
	return err
}

// Interface guards
var (
	_ store.Store          = (*Store)(nil)
	_ store.Settler        = (*Store)(nil)
	_ store.AttemptSettler = (*Store)(nil)
	_ store.HoldReceiver   = (*Store)(nil)
)
