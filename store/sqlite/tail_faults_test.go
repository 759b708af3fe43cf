package sqlite

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/sqlitefile"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// refuse has a table refuse what is added to it, until allow is called.
func refuse(t *testing.T, s *Store, table string) (allow func()) {
	t.Helper()
	return trigger(t, s, "BEFORE INSERT ON "+table+" BEGIN SELECT RAISE(ABORT, 'refused'); END")
}

// trigger has something happen to what the writer writes, until drop is called.
func trigger(t *testing.T, s *Store, definition string) (drop func()) {
	t.Helper()
	exec(t, s, "CREATE TEMP TRIGGER refuse "+definition)
	return func() { exec(t, s, "DROP TRIGGER refuse") }
}

// exec has the writer run a statement while nothing else is written.
func exec(t *testing.T, s *Store, statement string) {
	t.Helper()
	inWriter(t, s, func(w *writer) error {
		_, err := w.conn.ExecContext(context.Background(), statement)
		return err
	})
}

// A webhook asks outside of the writer, at any moment.
func TestWhoseAHoldIsIsKnownWhateverTheWriterDoes(t *testing.T) {
	s, account := funded(t, filepath.Join(t.TempDir(), "gateway.db"), 1_000_000)
	a := holdOf(account)
	if _, err := s.Admit(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	known := func(when string) {
		t.Helper()
		found, err := s.Holds(context.Background(), []store.HoldID{a.HoldID})
		if sender, ok := found[a.HoldID]; err != nil || !ok || sender.Account != account || sender.Captured {
			t.Errorf("%s: %+v, %v", when, found, err)
		}
	}
	err := s.writer.do(t.Context(), &operation{apply: func(w *writer) error {
		if _, err := w.settle(a.HoldID, store.Captured, "wamid.1"); err != nil {
			return err
		}
		known("before the commit of the capture")
		return errors.New("the disk fails")
	}})
	if err == nil {
		t.Fatal("captured")
	}
	inWriter(t, s, func(w *writer) error {
		known("after a group has failed")
		if _, err := w.refresh(); err != nil {
			return err
		}
		known("when memory is read again")
		return nil
	})
}

func TestMemoryIsBoundedWhileNothingCanBeWritten(t *testing.T) {
	s, account := funded(t, filepath.Join(t.TempDir(), "gateway.db"), 1_000_000)
	for range 20 {
		a := holdOf(account)
		if _, err := s.Admit(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		if err := s.Capture(t.Context(), a.HoldID, "wamid."+string(a.HoldID)); err != nil {
			t.Fatal(err)
		}
	}
	generation := s.Generation()
	allow := refuse(t, s, "ledger_tail")
	for range 100 {
		if _, err := s.Admit(t.Context(), holdOf(account)); err == nil {
			t.Fatal("admitted")
		}
	}
	inWriter(t, s, func(w *writer) error {
		if n := w.messages.fresh.count + len(w.tail.before); n > 100 {
			t.Errorf("%d messages of 20 are in memory", n)
		}
		return nil
	})
	if s.Generation() != generation {
		t.Error("what caches hold is out of date, and nothing has changed")
	}
	allow()
	if _, err := s.Admit(t.Context(), holdOf(account)); err != nil {
		t.Error(err)
	}
}

// A capture that fails time and again takes no more memory each time.
func TestWhatCannotBeCapturedIsNoMessage(t *testing.T) {
	s, account := funded(t, filepath.Join(t.TempDir(), "gateway.db"), 1_000_000)
	a := holdOf(account)
	if _, err := s.Admit(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	allow := refuse(t, s, "ledger_tail")
	for range 100 {
		if err := s.Capture(t.Context(), a.HoldID, "wamid.1"); err == nil {
			t.Fatal("captured")
		}
	}
	inWriter(t, s, func(w *writer) error {
		if n := w.messages.fresh.count + len(w.tail.before); n > 1 {
			t.Errorf("%d messages of one are in memory", n)
		}
		return nil
	})
	allow()
	if err := s.Capture(t.Context(), a.HoldID, "wamid.1"); err != nil {
		t.Fatal(err)
	}
	inWriter(t, s, func(w *writer) error {
		if _, sender, err := w.senderOf("wamid.1"); err != nil || sender != account {
			t.Errorf("the message is of %q, %v", sender, err)
		}
		return nil
	})
}

func TestSendsGoOnWhereTheLedgerRefusesWhatIsInItsTail(t *testing.T) {
	s, account := funded(t, filepath.Join(t.TempDir(), "gateway.db"), 10_000_000)
	allow := refuse(t, s, "ledger")
	for range 2 * tailChunk {
		a := holdOf(account)
		if _, err := s.Admit(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		if err := s.Capture(t.Context(), a.HoldID, ""); err != nil {
			t.Fatal(err)
		}
	}
	allow()
	await(t, "the tail to be entered", func() bool { rows, _, _ := tables(t, s); return rows == 1+2*tailChunk })
	if b, err := s.Balance(t.Context(), account); err != nil || b.Captured != 2*tailChunk*1_000 {
		t.Errorf("%+v, %v", b, err)
	}
}

func TestASeqThatSomebodyElseHasTakenIsNoObstacle(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.db")
	s, account := funded(t, path, 1_000_000)
	allow := refuse(t, s, "ledger") // so that all of it is in the tail
	const sends = 3
	for i := range sends {
		a := holdOf(account)
		if _, err := s.Admit(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		if i == sends-1 {
			continue // which stays open
		}
		if err := s.Capture(t.Context(), a.HoldID, fmt.Sprintf("wamid.%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	db, err := sqlitefile.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for i := range 2 * sends { // all the seqs behind that of the credit
		_, err = db.ExecContext(t.Context(), "INSERT INTO ledger (id, account_id, kind, amount, balance, at) VALUES (?, 'acct_1', 'credit', 0, 0, 0)", i)
		if err != nil {
			t.Fatal(err)
		}
	}
	allow()
	entries := allEntries(t, s, account)
	if len(entries) != 1+2*sends+2*sends-1 {
		t.Errorf("%d entries", len(entries))
	}
	seqs := make(map[int64]bool)
	for _, e := range entries {
		if e.Kind == store.KindCapture && seqs[e.Seq] {
			t.Errorf("seq %d is taken twice", e.Seq)
		}
		seqs[e.Seq] = true
	}
	if b, err := s.Balance(t.Context(), account); err != nil || b.Captured != (sends-1)*1_000 || b.Held != 1_000 {
		t.Errorf("%+v, %v", b, err)
	}
}

func TestACommandLeavesTheTailToTheGateway(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.db")
	s, account := funded(t, path, 1_000_000)
	if _, err := s.Admit(t.Context(), holdOf(account)); err != nil {
		t.Fatal(err)
	}
	tool := openTool(t, path)
	if b, err := tool.Balance(t.Context(), account); err != nil || b.Held != 1_000 {
		t.Errorf("%+v, %v", b, err)
	}
	if err := tool.Close(); err != nil {
		t.Fatal(err)
	}
	if _, holds, _ := tables(t, s); holds != 0 {
		t.Error("a command that reads a balance has entered a hold")
	}
}

func TestAClockThatIsSetBackHidesNoHold(t *testing.T) {
	var ahead atomic.Int64
	ahead.Store(int64(time.Hour))
	path := filepath.Join(t.TempDir(), "gateway.db")
	s := open(t, path, func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) })
	if err := s.CreateAccount(t.Context(), tenant.Account{ID: "acct_1", Currency: "USD"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Credit(t.Context(), "acct_1", 1_000_000, "credit_1"); err != nil {
		t.Fatal(err)
	}
	early, late := holdOf("acct_1"), holdOf("acct_1")
	for _, a := range []store.Admission{early, late} {
		if _, err := s.Admit(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		ahead.Store(0)
	}
	if n, err := s.InDoubt(t.Context(), time.Now().Add(time.Minute), store.Captured); err != nil || n != 1 {
		t.Errorf("%d holds were in doubt, %v", n, err)
	}
	if err := s.Capture(t.Context(), early.HoldID, "wamid.1"); err != nil {
		t.Fatal(err)
	}
	var kinds []store.Kind
	for e, err := range s.Ledger(t.Context(), "acct_1", time.Now().Add(30*time.Minute)) {
		if err != nil {
			t.Fatal(err)
		}
		kinds = append(kinds, e.Kind)
	}
	if fmt.Sprint(kinds) != "[credit hold]" {
		t.Errorf("made an hour ahead: %v", kinds)
	}
}

func TestADatabaseWithoutATailGoesOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.db")
	if err := sqlitefile.Create(path); err != nil {
		t.Fatal(err)
	}
	db, err := sqlitefile.Open(path, "journal_mode(wal)")
	if err != nil {
		t.Fatal(err)
	}
	exec := func(query string, values ...any) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), query, values...); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"0001_directory_and_wallet", "0002_outbox", "0003_core"} {
		script, err := migrations.ReadFile("migrations/" + file + ".sql")
		if err != nil {
			t.Fatal(err)
		}
		exec(string(script))
	}
	exec(fmt.Sprintf("PRAGMA application_id = %d; PRAGMA user_version = 3", applicationID))
	hold, now := store.NewHoldID(), time.Now().UnixMicro()
	exec("INSERT INTO accounts (id, name, currency, created_at, credited, available, held, captured) VALUES ('acct_1', '', 'USD', '2026-01-01T00:00:00Z', 9000, 7000, 1000, 1000)")
	for i, e := range []struct {
		id, kind, message string
		balance           int
	}{
		{"credit_1", "credit", "", 9000}, {"hold_x", "hold", "", 8000},
		{"capture_x", "capture", "wamid.1", 8000}, {hold.EntryID(store.KindHold), "hold", "", 7000},
	} {
		exec(`INSERT INTO ledger (seq, id, account_id, kind, amount, balance, app_id, message_id, at)
			VALUES (?, ?, 'acct_1', ?, iif(?2 = 'credit_1', 9000, 1000), ?, 'app_1', nullif(?, ''), ?)`, i+1, e.id, e.kind, e.balance, e.message, now)
	}
	exec("INSERT INTO holds VALUES (?, 'acct_1', 'app_1', 1000, ?)", hold, now)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s := open(t, path, time.Now)
	inWriter(t, s, func(w *writer) error {
		if n := w.windows.get("app_1").Minute.Total; n != 2 {
			t.Errorf("%d sends are in the window", n)
		}
		return nil
	})
	if err := s.Capture(t.Context(), hold, "wamid.2"); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		status := store.Status{MessageID: "wamid." + strconv.Itoa(i+1), TemplateFee: map[string]pricing.Micros{"USD": 1}}
		if results, err := s.Receive(t.Context(), nil, []store.Status{status}); err != nil || results[0].Fee != store.FeeCharged {
			t.Errorf("%+v, %v", results, err)
		}
	}
	if entries := allEntries(t, s, "acct_1"); len(entries) != 7 || entries[6].Balance != 6_998 {
		t.Errorf("%+v", entries)
	}
}
