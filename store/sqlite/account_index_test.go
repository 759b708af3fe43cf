package sqlite

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// checkLedger has what the store reads of an account's ledger be what the ledger has.
func checkLedger(t *testing.T, s *Store, account tenant.AccountID) {
	t.Helper()
	checkEntries(t, s, account, allEntries(t, s, account))
}

// checkEntries has what was read of an account's ledger be what the ledger has.
func checkEntries(t *testing.T, s *Store, account tenant.AccountID, read []store.Entry) {
	t.Helper()
	rows, err := s.reading.QueryContext(t.Context(), "SELECT seq, id FROM entries WHERE account_id = ? ORDER BY seq", account)
	want, err := collect(rows, err, func(scan func(...any) error) (e store.Entry, err error) { return e, scan(&e.Seq, &e.ID) })
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range read {
		if i >= len(want) || e.Seq != want[i].Seq || e.ID != want[i].ID {
			t.Fatalf("%s: entry %d of %d is %d, of %d in the ledger", account, i, len(read), e.Seq, len(want))
		}
	}
	if len(read) < len(want) {
		t.Fatalf("%s: %d entries of %d are read", account, len(read), len(want))
	}
}

// cutOff writes the first row of a batch, and no more.
func cutOff(t *testing.T, s *Store, account tenant.AccountID) {
	t.Helper()
	inWriter(t, s, func(w *writer) error {
		if _, err := w.begin(); err != nil {
			return err
		}
		if err := w.readFresh(); err != nil {
			return err
		}
		seqs, upTo := w.accounts.fresh[account], w.enteredUpTo()
		if len(seqs) == 0 || upTo <= w.accounts.indexed {
			return nil
		}
		_, err := w.commands.insertAccountEntries.exec(string(account), upTo, "["+string(seqs[1:])+"]")
		return err
	})
}

// Wherever an entry stands on its way to the index, before and after a crash, a failure
// and what another process writes, it is read once, and in its place.
func TestAnAccountsEntriesAreReadWhereverTheyAre(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.db")
	s, first := funded(t, path, 1_000_000)
	accounts := []tenant.AccountID{first, "acct_2", "acct_3"}
	for _, id := range accounts[1:] {
		if err := s.CreateAccount(t.Context(), tenant.Account{ID: id, Currency: "USD", CreatedAt: time.Now()}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Credit(t.Context(), id, 1_000_000, "credit of "+string(id)); err != nil {
			t.Fatal(err)
		}
	}
	smallBatches := func() {
		inWriter(t, s, func(w *writer) error { w.accounts.size, w.messages.size = 7, 5; return nil })
	}
	smallBatches()
	allow := func() {}
	for i := range 600 {
		account := accounts[min(rand.IntN(6), len(accounts)-1)]
		a := holdOf(account)
		if _, err := s.Admit(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		var err error
		switch rand.IntN(8) {
		case 0: // it stays open
		case 1:
			err = s.Release(t.Context(), a.HoldID)
		default:
			err = s.Capture(t.Context(), a.HoldID, "wamid."+string(a.HoldID))
		}
		if err != nil {
			t.Fatal(err)
		}
		if rand.IntN(10) == 0 { // seqs that are given again, to another account
			failing(t, s, func(w *writer) error {
				wl, err := w.wallet(first)
				if err == nil {
					_, err = w.enter(store.Entry{ID: tenant.NewID("credit"), Kind: store.KindCredit, Amount: 1, At: time.Now()}, wl)
				}
				return err
			})
		}
		switch i % 100 {
		case 20:
			allow = refuse(t, s, []string{"account_entries", "ledger", "settings"}[rand.IntN(3)])
		case 30:
			allow()
		case 40:
			tool := openTool(t, path)
			if _, err := tool.Credit(t.Context(), account, 1, tenant.NewID("credit")); err != nil {
				t.Fatal(err)
			}
			checkLedger(t, tool, account)
		case 60:
			cutOff(t, s, account)
			s, path = crash(t, s, path)
			smallBatches()
		case 80: // what is in the tail is entered, and some of it indexed
			await(t, "the index", func() bool {
				indexed, err := indexedUpTo(t.Context(), s.reading, accountsIndexed)
				if err != nil {
					t.Fatal(err)
				}
				return indexed > int64(i)
			})
		}
		if i%25 == 0 && i%100 > 30 {
			checkLedger(t, s, account)
		}
	}
	for _, account := range accounts {
		checkLedger(t, s, account)
	}
}

// A ledger of a release that had another index is indexed at the start, and read while it grows.
func TestALedgerWhoseAccountsAreNotIndexedIs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.db")
	s, account := funded(t, path, 1_000_000)
	const entries = accountBatch + 100
	inWriter(t, s, func(w *writer) error {
		if _, err := w.begin(); err != nil {
			return err
		}
		_, err := w.write(`WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < ?)
			INSERT INTO ledger (id, account_id, kind, amount, balance, app_id, at)
			SELECT 'capture_' || i, iif(i % 50, 'acct_2', ?), 'capture', 0, 0, 'app_1', i FROM n`, entries, account)
		return err
	})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path, time.Now)
	inWriter(t, s, func(w *writer) error {
		if x := &w.accounts; x.indexed != accountBatch || x.count < 100 || x.count > 110 {
			t.Errorf("indexed up to %d, and %d are not", x.indexed, x.count)
		}
		return nil
	})
	checkLedger(t, s, account)
	if _, err := s.Credit(t.Context(), account, pricing.Micros(1), "credit_2"); err != nil {
		t.Fatal(err)
	}
	checkLedger(t, s, account)

	read := 0
	for e, err := range s.Ledger(t.Context(), account, time.UnixMicro(entries-30_000)) {
		if err != nil {
			t.Fatal(err)
		}
		if read++; e.At.UnixMicro() < entries-30_000 {
			t.Fatalf("an entry of %v", e.At)
		}
		if read == 300 {
			break
		}
	}
	if read != 300 {
		t.Errorf("%d entries are late", read)
	}
}

// What fails again and again, as on a full disk, takes no more memory each time.
func TestIndexesDoNotGrowWhileNothingCanBeEntered(t *testing.T) {
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
	for range 10 {
		failing(t, s, (*writer).enterAll)
	}
	inWriter(t, s, func(w *writer) error {
		if n := w.messages.fresh.count; n > 20 {
			t.Errorf("%d messages of 20 are in memory", n)
		}
		if n := len(w.accounts.fresh[account]); n > 1000 {
			t.Errorf("%d bytes of 21 entries are in memory", n)
		}
		return nil
	})
	checkLedger(t, s, account)
}

// BenchmarkLedger reads an account's ledger.
func BenchmarkLedger(b *testing.B) {
	path := filepath.Join(b.TempDir(), "gateway.db")
	s, account := funded(b, path, 1_000_000)
	const entries = 100_000
	err := s.writer.do(context.Background(), &operation{apply: func(w *writer) error {
		if _, err := w.begin(); err != nil {
			return err
		}
		_, err := w.write(fmt.Sprintf(`WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < %d)
			INSERT INTO ledger (id, account_id, kind, amount, balance, app_id, at)
			SELECT 'capture_' || i, ?, 'capture', 0, 0, 'app_1', i FROM n`, entries), account)
		return err
	}})
	if err := errors.Join(err, s.Close()); err != nil {
		b.Fatal(err)
	}
	s = open(b, path, time.Now)
	for b.Loop() {
		n := 0
		for _, err := range s.Ledger(b.Context(), account, time.Time{}) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		if n < entries {
			b.Fatalf("%d entries", n)
		}
	}
}

// A hand may give an entry any seq.
func TestALedgerWithAGapIsIndexed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.db")
	s, account := funded(t, path, 1_000_000)
	inWriter(t, s, func(w *writer) error {
		if _, err := w.begin(); err != nil {
			return err
		}
		_, err := w.write("INSERT INTO ledger (seq, id, account_id, kind, amount, balance, at) VALUES (1 << 60, 'note', ?, 'credit', 0, 0, 0)", account)
		return err
	})
	s, _ = crash(t, s, path)
	a := holdOf(account)
	if _, err := s.Admit(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if err := s.Capture(t.Context(), a.HoldID, "wamid.1"); err != nil {
		t.Fatal(err)
	}
	if n := len(allEntries(t, s, account)); n != 4 {
		t.Errorf("%d entries", n)
	}
	checkLedger(t, s, account)
}
