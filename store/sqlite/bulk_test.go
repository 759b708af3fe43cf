package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/sqlitefile"
	"github.com/connexease/caddy-whatsapp-gateway/store"
)

// connection opens a new database with a table.
func connection(t testing.TB, table string) *sql.Conn {
	t.Helper()
	db, err := sqlitefile.Open(filepath.Join(t.TempDir(), "bulk.db"), "synchronous(off)", "journal_mode(memory)")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.ExecContext(t.Context(), table); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); db.Close() })
	return conn
}

// What goes into a bulk comes out of the table.
func FuzzBulk(f *testing.F) {
	conn := connection(f, "CREATE TABLE rows (n INTEGER PRIMARY KEY, t TEXT NOT NULL, m INTEGER NOT NULL, o TEXT) STRICT")
	b, err := newBulk(conn, "INSERT INTO rows (n, t, m, o)", "itin", "")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		if err := b.close(); err != nil {
			f.Error(err)
		}
	})
	f.Add("text", "", int64(0), 1)
	f.Add("", "wamid.HBgL==", int64(math.MinInt64), 2)
	f.Add("a\x00b", "\x00", int64(math.MaxInt64), 3)
	f.Add("\xff\xfe'\"", "ü🙂 ", int64(-1), maxBulk)
	f.Add(strings.Repeat("x", 5000), " 1 2 ", int64(1<<53+1), 250)
	f.Fuzz(func(t *testing.T, text, optional string, number int64, rows int) {
		rows = 1 + int(uint(rows)%maxBulk)
		if _, err := conn.ExecContext(context.Background(), "DELETE FROM rows"); err != nil {
			t.Fatal(err)
		}
		for i := range rows {
			b.number(int64(i))
			b.text(text, fmt.Sprint(i))
			b.number(number)
			b.text(optional)
		}
		if n, err := b.write(); err != nil || n != int64(rows) {
			t.Fatalf("%d of %d rows are written, %v", n, rows, err)
		}
		found, err := conn.QueryContext(context.Background(), "SELECT n, CAST(t AS BLOB), m, CAST(o AS BLOB), o IS NULL FROM rows ORDER BY n")
		if err != nil {
			t.Fatal(err)
		}
		defer found.Close()
		i := 0
		for ; found.Next(); i++ {
			var n, m int64
			var gotText, gotOptional []byte
			var null bool
			if err := found.Scan(&n, &gotText, &m, &gotOptional, &null); err != nil {
				t.Fatal(err)
			}
			if n != int64(i) || string(gotText) != text+fmt.Sprint(i) || m != number || string(gotOptional) != optional || null != (optional == "") {
				t.Fatalf("row %d: %d %q %d %q (NULL: %v)", i, n, gotText, m, gotOptional, null)
			}
		}
		if err := found.Err(); err != nil || i != rows {
			t.Fatalf("%d rows of %d, %v", i, rows, err)
		}
	})
}

// A bulk that is refused leaves no row behind, and the next one has none of it.
func TestABulkIsWrittenAsAWhole(t *testing.T) {
	conn := connection(t, "CREATE TABLE rows (n INTEGER PRIMARY KEY, t TEXT) STRICT")
	b, err := newBulk(conn, "INSERT INTO rows (n, t)", "it", "")
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	write := func(numbers ...int64) (int64, error) {
		for _, n := range numbers {
			b.number(n)
			b.text("text")
		}
		return b.write()
	}
	for _, step := range []struct {
		numbers []int64
		want    int64 // -1 is refused
	}{
		{[]int64{1, 2, 3}, 3},
		{[]int64{4, 5, 3}, -1},
		{[]int64{5}, 1},
	} {
		if n, err := write(step.numbers...); (err != nil) != (step.want < 0) || err == nil && n != step.want {
			t.Errorf("%v: %d, %v", step.numbers, n, err)
		}
	}
	var rows string
	if err := conn.QueryRowContext(t.Context(), "SELECT group_concat(n) FROM rows").Scan(&rows); err != nil || rows != "1,2,3,5" {
		t.Errorf("%s, %v", rows, err)
	}
}

// More holds than one bulk takes, and ids that are longer than all of one should be, are entered
// together with the seqs that they have.
func TestSendsAreEnteredInBulks(t *testing.T) {
	s, account := funded(t, filepath.Join(t.TempDir(), "gateway.db"), 10_000_000)
	allow := refuse(t, s, "ledger") // so that all of it waits
	const sends = 2*maxBulk + 10
	want := make(map[string]string) // message by capture
	for i := range sends {
		a := holdOf(account)
		if _, err := s.Admit(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		message := fmt.Sprintf("wamid.\x00'%d", i)
		switch i {
		case 100, 101, 300:
			message += strings.Repeat("x", maxBulkText-1000)
		case 150:
			message = ""
		}
		if err := s.Capture(t.Context(), a.HoldID, message); err != nil {
			t.Fatal(err)
		}
		want[a.HoldID.EntryID(store.KindCapture)] = message
	}
	allow()
	await(t, "the tail to be entered", func() bool { rows, _, _ := tables(t, s); return rows == 1+sends })
	seqs := make(map[int64]bool)
	for entry, err := range s.Ledger(t.Context(), account, time.Time{}) {
		if err != nil {
			t.Fatal(err)
		}
		seqs[entry.Seq] = true
		if entry.Kind != store.KindCapture {
			continue
		}
		if message, ok := want[entry.ID]; !ok || entry.MessageID != message || entry.Amount != 1_000 || entry.AppID != "app_1" {
			t.Fatalf("a capture is not as it was made (known: %v)", ok)
		}
		delete(want, entry.ID)
	}
	if len(want) > 0 || len(seqs) != 1+2*sends {
		t.Errorf("%d captures are missing; %d seqs", len(want), len(seqs))
	}
}

// What is in the ledger already is no row less, but a mistake, which undoes the whole step.
func TestASendIsNotEnteredTwice(t *testing.T) {
	s, account := funded(t, filepath.Join(t.TempDir(), "gateway.db"), 1_000_000)
	allow := refuse(t, s, "ledger") // so that it waits
	a := holdOf(account)
	if _, err := s.Admit(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if err := s.Capture(t.Context(), a.HoldID, "wamid.1"); err != nil {
		t.Fatal(err)
	}
	allow()
	var second error
	failing(t, s, func(w *writer) error {
		settled := w.tail.settled
		if err := w.enterTogether(settled); err != nil {
			t.Error(err)
		}
		settled[0].outcome.seq++
		second = w.enterTogether(settled)
		settled[0].outcome.seq--
		return second
	})
	if !errors.Is(second, errEntered) {
		t.Error(second)
	}
	if entries := allEntries(t, s, account); len(entries) != 3 {
		t.Errorf("%d entries", len(entries))
	}
}
