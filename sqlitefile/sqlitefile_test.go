package sqlitefile

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func openFile(t *testing.T, path string, pragmas ...string) *sql.DB {
	t.Helper()
	if err := Create(path); err != nil {
		t.Fatal(err)
	}
	db, err := Open(path, pragmas...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func connect(t *testing.T, db *sql.DB) *sql.Conn {
	t.Helper()
	conn, err := Conn(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return conn
}

func run(t *testing.T, conn *sql.Conn, query string) {
	t.Helper()
	if _, err := conn.ExecContext(t.Context(), query); err != nil {
		t.Fatal(err)
	}
}

// As many as want to may open a file that is not there yet.
func TestManyMakeOneFile(t *testing.T) {
	const openers = 8
	for range 20 {
		path := filepath.Join(t.TempDir(), "folder % with ? odd # name", "file.db")
		var begin, done sync.WaitGroup
		begin.Add(openers)
		for range openers {
			done.Go(func() {
				begin.Done()
				begin.Wait()
				if err := Create(path); err != nil {
					t.Error(err)
					return
				}
				db, err := Open(path, "journal_mode(wal)", "synchronous(full)")
				if err != nil {
					t.Error(err)
					return
				}
				defer db.Close()
				conn, err := Conn(t.Context(), db)
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				if _, err := conn.ExecContext(t.Context(), "BEGIN IMMEDIATE; CREATE TABLE IF NOT EXISTS a (b); INSERT INTO a VALUES (1); COMMIT"); err != nil {
					t.Error(err)
				}
			})
		}
		done.Wait()
		if t.Failed() {
			return
		}
		var rows int
		var mode string
		conn := connect(t, openFile(t, path))
		if err := conn.QueryRowContext(t.Context(), "SELECT (SELECT count(*) FROM a), (SELECT journal_mode FROM pragma_journal_mode)").Scan(&rows, &mode); err != nil || rows != openers || mode != "wal" {
			t.Fatalf("%d rows, mode %q, %v", rows, mode, err)
		}
	}
}

// A connection that is refused the write-ahead log gets it when the other one
// has finished.
func TestConnWaitsForTheOneThatMakesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file.db")
	other := connect(t, openFile(t, path))
	run(t, other, "BEGIN IMMEDIATE; CREATE TABLE a (b)")
	db := openFile(t, path, "journal_mode(wal)", "busy_timeout(0)")
	if _, err := db.Conn(t.Context()); !isBusy(err) {
		t.Fatalf("without waiting: %v", err)
	}
	got := make(chan error)
	go func() {
		conn, err := Conn(t.Context(), db)
		if err == nil {
			err = conn.Close()
		}
		got <- err
	}()
	run(t, other, "COMMIT")
	if err := <-got; err != nil {
		t.Error(err)
	}
}

func TestConnEndsWithItsContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file.db")
	run(t, connect(t, openFile(t, path)), "BEGIN EXCLUSIVE")
	db := openFile(t, path, "busy_timeout(0)", "journal_mode(wal)")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Conn(ctx, db); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestWhatCannotBeMade(t *testing.T) {
	dir := t.TempDir()
	if err := Create(dir); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Error(err)
	}
	if err := Create(filepath.Join(dir, "file.db")); err != nil {
		t.Fatal(err)
	}
	if err := Create(filepath.Join(dir, "file.db", "below.db")); err == nil || errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
	db, err := Open(filepath.Join(dir, "missing", "file.db"), "journal_mode(wal)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := Conn(t.Context(), db); err == nil || isBusy(err) {
		t.Error(err)
	}
}
