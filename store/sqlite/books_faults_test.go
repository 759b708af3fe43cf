package sqlite

import (
	"context"
	"errors"
	"fmt"
	"slices"

	driver "modernc.org/sqlite"
)

// tablesOfBooks are those in which something is written for a send or an event.
var tablesOfBooks = []string{"ledger_tail", "ledger", "holds", "messages", "account_entries", "settings", "outbox", "outbox_recent"}

// fault has something fail in this round, until heal is called, and returns what strikes between
// the steps, by their number.
func (b *books) fault(steps []*step) (heal func(), strikes map[int]func(*writer) error) {
	heal, strikes = func() {}, make(map[int]func(*writer) error)
	at := b.IntN(len(steps) + 1)
	table := tablesOfBooks[b.IntN(len(tablesOfBooks))]
	switch b.IntN(14) {
	case 0, 1: // as on a full disk
		heal = b.refuse(table)
	case 2: // neither read nor written
		heal = b.shadow(table)
	case 3:
		heal = b.refuseCommits()
	case 4:
		if !slices.ContainsFunc(steps, func(s *step) bool { return s.foreign }) {
			heal = b.lock()
		}
	case 5:
		strikes[at] = func(w *writer) error {
			_, err := w.begin()
			return errors.Join(err, errors.New("the disk fails"))
		}
	case 6:
		strikes[at] = func(w *writer) error {
			_, _ = w.begin()
			panic("a fault")
		}
	case 7:
		strikes[at] = func(w *writer) error { return b.kill() }
	case 8, 9:
		b.leave(steps, strikes, at)
	}
	if i := b.IntN(len(steps) + 1); b.IntN(2) == 0 && strikes[i] == nil {
		strikes[i] = func(w *writer) error { // as the writer does between two groups
			if _, err := w.begin(); err != nil {
				return err
			}
			return w.enterAndIndex()
		}
	}
	return heal, strikes
}

// refuse has SQLite refuse what is added to a table, and perhaps roll back by itself.
func (b *books) refuse(table string) (heal func()) {
	when, what, rows := []string{"BEFORE", "AFTER"}[b.IntN(2)], []string{"ABORT", "ROLLBACK", "ROLLBACK"}[b.IntN(3)], ""
	if table == "ledger" || table == "messages" || table == "outbox" {
		n := 1 + b.IntN(3)
		rows = fmt.Sprintf("WHEN NEW.seq %% %d = %d", n, b.IntN(n))
	}
	return trigger(b.T, b.s, fmt.Sprintf("%s INSERT ON %s %s BEGIN SELECT RAISE(%s, 'refused'); END", when, table, rows, what))
}

// shadow has a table that is none of ours in place of one.
func (b *books) shadow(table string) (heal func()) {
	exec(b.T, b.s, "CREATE TEMP TABLE "+table+" (x)")
	return func() { exec(b.T, b.s, "DROP TABLE temp."+table) }
}

// refuseCommits has every COMMIT fail.
func (b *books) refuseCommits() (heal func()) {
	set := func(hook driver.CommitHookFn) {
		b.inWriter(func(w *writer) error {
			return w.conn.Raw(func(conn any) error {
				conn.(driver.HookRegisterer).RegisterCommitHook(hook)
				return nil
			})
		})
	}
	set(func() int32 { return 1 })
	return func() { set(nil) }
}

// lock has another process write for longer than the writer waits.
func (b *books) lock() (heal func()) {
	b.Helper()
	exec(b.T, b.s, "PRAGMA busy_timeout = 1")
	conn, err := b.s.writing.Conn(b.Context())
	if err == nil {
		_, err = conn.ExecContext(b.Context(), "BEGIN IMMEDIATE")
	}
	if err != nil {
		b.Fatal(err)
	}
	return func() {
		_, err := conn.ExecContext(context.Background(), "ROLLBACK")
		if err := errors.Join(err, conn.Close()); err != nil {
			b.Fatal(err)
		}
		exec(b.T, b.s, "PRAGMA busy_timeout = 3000")
	}
}

// kill has the next gateway begin with what is on disk now.
func (b *books) kill() error {
	copied, err := copyDatabase(b.T, b.path)
	if err == nil {
		b.killed, b.path = true, copied
	}
	return err
}

// leave has a caller go away, before the writer comes to the step or behind it.
func (b *books) leave(steps []*step, strikes map[int]func(*writer) error, at int) {
	s := steps[b.IntN(len(steps))]
	if s.fixed || s.foreign {
		return
	}
	strikes[at] = func(*writer) error {
		s.cancel()
		<-s.returned
		return nil
	}
}
