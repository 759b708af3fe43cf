package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

func totalOf(account tenant.AccountID, version int64) store.Total {
	return store.Total{Account: account, Currency: "USD", Credited: pricing.Micros(version) * 1_000, Version: version}
}

func TestTwoProcessesFollowOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.db")
	s, account := funded(t, path, 0)
	tool := openTool(t, path)
	const versions = 20
	var workers sync.WaitGroup
	for _, follower := range []*Store{s, tool, s, tool} {
		workers.Go(func() {
			for version := int64(1); version <= versions; version++ {
				for _, id := range []tenant.AccountID{account, "acct_of_core"} {
					if err := follower.Follow(t.Context(), totalOf(id, version)); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	workers.Wait()
	for _, id := range []tenant.AccountID{account, "acct_of_core"} {
		if b, err := s.Balance(t.Context(), id); err != nil || b != (store.Balance{Available: versions * 1_000}) {
			t.Errorf("%+v, %v", b, err)
		}
		if d, err := s.Admit(t.Context(), holdOf(id)); err != nil || d.Verdict != store.Admitted {
			t.Errorf("%+v, %v", d, err)
		}
	}
}

// The wallet in memory goes the way of what was not written.
func TestAnAccountOfATotalThatWasNotWrittenIsNotThere(t *testing.T) {
	s, _ := funded(t, filepath.Join(t.TempDir(), "gateway.db"), 0)
	for _, version := range []int64{0, 1} { // which credits nothing, or something
		total := totalOf("acct_of_core", 1)
		total.Credited = pricing.Micros(version) * 1_000
		err := s.writer.do(t.Context(), &operation{apply: func(w *writer) error {
			if err := w.follow(total); err != nil {
				t.Error(err)
			}
			return fmt.Errorf("the disk fails")
		}})
		if err == nil {
			t.Fatal("written")
		}
		if d, err := s.Admit(t.Context(), holdOf("acct_of_core")); err != nil || d.Verdict != store.NoAccount {
			t.Errorf("%+v, %v", d, err)
		}
	}
	if err := s.Follow(t.Context(), totalOf("acct_of_core", 1)); err != nil {
		t.Fatal(err)
	}
	if d, err := s.Admit(t.Context(), holdOf("acct_of_core")); err != nil || d.Verdict != store.Admitted {
		t.Errorf("%+v, %v", d, err)
	}
}

// fillLedger appends n entries that need not be reported.
func fillLedger(t testing.TB, s *Store, n int) {
	t.Helper()
	err := s.writer.do(t.Context(), &operation{apply: func(w *writer) error {
		if _, err := w.begin(); err != nil {
			return err
		}
		_, err := w.write(`WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < ?)
			INSERT INTO ledger (id, account_id, kind, amount, balance, at)
			SELECT 'filler' || (SELECT count(*) FROM ledger) || '_' || i, 'acct_1', iif(i % 2, 'hold', 'release'), 1, 0, 0 FROM n`, n)
		if err == nil {
			w.seq, err = w.commands.lastSeq.number()
		}
		return err
	}})
	if err != nil {
		t.Fatal(err)
	}
}

func TestReportsPassOverHoldsHoweverManyThereAre(t *testing.T) {
	s, account := funded(t, filepath.Join(t.TempDir(), "gateway.db"), 1_000)
	wantIDs := func(want ...string) store.Report {
		t.Helper()
		r, err := s.Unreported(t.Context(), 2)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range r.Entries {
			got = append(got, e.ID)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("reported %v, want %v", got, want)
		}
		return r
	}
	fillLedger(t, s, 2*reportPage+10)
	if _, err := s.Credit(t.Context(), account, 1, "credit_2"); err != nil {
		t.Fatal(err)
	}
	fillLedger(t, s, reportPage)
	r := wantIDs("credit_1", "credit_2")
	if err := s.Reported(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	wantIDs()
	fillLedger(t, s, 2*reportPage)
	wantIDs()
	// It need not pass over the same again.
	var reported, newest int64
	err := s.reading.QueryRowContext(t.Context(), `SELECT (SELECT value FROM settings WHERE name = 'ledger_reported'), max(seq) FROM ledger`).
		Scan(&reported, &newest)
	if err != nil || reported != newest {
		t.Errorf("%d of %d are passed, %v", reported, newest, err)
	}
	if _, err := s.Credit(t.Context(), account, 1, "credit_3"); err != nil {
		t.Fatal(err)
	}
	wantIDs("credit_3")
}

func TestAReportOfAnotherStoreIsRefused(t *testing.T) {
	s, _ := funded(t, filepath.Join(t.TempDir(), "gateway.db"), 1_000)
	for _, cursor := range []string{"", "x", "{07} 1-0"} {
		if err := s.Reported(t.Context(), store.Report{Cursor: cursor}); err == nil {
			t.Errorf("cursor %q is taken", cursor)
		}
	}
	if r, err := s.Unreported(t.Context(), 10); err != nil || len(r.Entries) != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestADatabaseOfTheReleaseBeforeFollows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.db")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"migrations/0001_directory_and_wallet.sql", "migrations/0002_outbox.sql"} {
		script, err := migrations.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.ExecContext(t.Context(), string(script)); err != nil {
			t.Fatal(err)
		}
	}
	_, err = db.ExecContext(t.Context(), fmt.Sprintf(`PRAGMA application_id = %d; PRAGMA user_version = 2;
		INSERT INTO accounts VALUES ('acct_1', 'One', 'USD', '2026-01-01T00:00:00Z', 5000, 5000, 0, 0);
		INSERT INTO ledger VALUES (1, 'credit_1', 'acct_1', 'credit', 5000, 5000, NULL, NULL, 0)`, applicationID))
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s := open(t, path, time.Now)
	if err := s.Follow(t.Context(), totalOf("acct_1", 3)); err != nil {
		t.Fatal(err)
	}
	if b, err := s.Balance(t.Context(), "acct_1"); err != nil || b.Available != 8_000 {
		t.Errorf("%+v, %v", b, err)
	}
	if r, err := s.Unreported(t.Context(), 10); err != nil || len(r.Entries) != 2 || r.Entries[1].Amount != 3_000 {
		t.Errorf("%+v, %v", r, err)
	}
}

// BenchmarkUnreported is a look at a ledger of a million entries of which
// nothing is left to report.
func BenchmarkUnreported(b *testing.B) {
	s, _ := funded(b, filepath.Join(b.TempDir(), "gateway.db"), 1_000)
	fillLedger(b, s, 1_000_000)
	began := time.Now()
	r, err := s.Unreported(context.Background(), 100)
	if err != nil || len(r.Entries) != 1 {
		b.Fatalf("%d entries, %v", len(r.Entries), err)
	}
	first := time.Since(began)
	if err := s.Reported(b.Context(), r); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := s.Unreported(b.Context(), 100); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(first.Milliseconds()), "ms/first")
}
