// Package sqlitefile opens SQLite files that several processes share, whichever
// of them makes the file.
package sqlitefile

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/cenkalti/backoff/v5"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// busyTimeout is how long a connection waits for another one that writes, which
// is less than a request waits to be admitted.
const busyTimeout = 3 * time.Second

// Create makes an empty file at path, with its folder, for the owner's eyes
// alone, where there is none; SQLite itself would let everybody read. The files that
// SQLite puts beside it get the same permissions from it.
func Create(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	// A file that is there is not opened: closing it would end the locks that
	// SQLite holds on it in this process (fcntl(2)).
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			return fmt.Errorf("%s: is a directory", path)
		}
		return nil
	}
	if err != nil {
		return err
	}
	return f.Close()
}

// Open returns the database at path, as [sql.Open] does: nothing is read before
// its first connection. Each connection waits up to 3 s for another one that
// writes, and begins with the pragmas, such as "query_only(on)".
func Open(path string, pragmas ...string) (*sql.DB, error) {
	q := url.Values{"_pragma": append([]string{fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds())}, pragmas...)}
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: q.Encode()}
	return sql.Open("sqlite", u.String())
}

// Conn returns a connection of db. One that turns a new file into one with a
// write-ahead log, by journal_mode(wal), is refused at once where another does the same at that moment:
// both read and want to write, so SQLite lets neither wait for the other
// (https://www.sqlite.org/c3ref/busy_handler.html). It is tried again then.
func Conn(ctx context.Context, db *sql.DB) (*sql.Conn, error) {
	pauses := backoff.NewExponentialBackOff() // jittered
	pauses.InitialInterval, pauses.MaxInterval = time.Millisecond, 100*time.Millisecond
	return backoff.Retry(ctx, func() (*sql.Conn, error) {
		conn, err := db.Conn(ctx)
		if err != nil && !isBusy(err) {
			err = backoff.Permanent(err)
		}
		return conn, err
	}, backoff.WithBackOff(pauses), backoff.WithMaxElapsedTime(busyTimeout))
}

func isBusy(err error) bool {
	failure := (*sqlite.Error)(nil)
	return errors.As(err, &failure) && failure.Code()&0xff == sqlite3.SQLITE_BUSY // without the details of the kind
}
