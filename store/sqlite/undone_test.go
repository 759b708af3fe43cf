package sqlite

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
)

// undo has SQLite itself roll back the transaction that adds something to a table, as it does where a
// disk is full or fails, until allow is called.
func undo(t *testing.T, s *Store, table string) (allow func()) {
	t.Helper()
	return trigger(t, s, "BEFORE INSERT ON "+table+" BEGIN SELECT RAISE(ROLLBACK, 'undone'); END")
}

// What is written behind such a failure is in no transaction, and there for good.
func TestAnIndexHasNothingOfATransactionThatSQLiteHasUndone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.db")
	s, account := funded(t, path, 1_000_000)
	inWriter(t, s, func(w *writer) error { w.tidyAgain = time.Now().Add(time.Hour); return nil })
	for range 3 {
		a := holdOf(account)
		if _, err := s.Admit(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		if err := s.Capture(t.Context(), a.HoldID, "wamid."+string(a.HoldID)); err != nil {
			t.Fatal(err)
		}
	}
	allow := undo(t, s, "messages")
	failing(t, s, func(w *writer) error {
		w.messages.size, w.accounts.size = 1, 1
		return w.enterAndIndex()
	})
	if indexed, err := indexedUpTo(t.Context(), s.reading, accountsIndexed); err != nil || indexed != 0 {
		t.Errorf("indexed up to %d, %v", indexed, err)
	}
	allow()
	checkLedger(t, s, account)
	inWriter(t, s, func(w *writer) error { w.tidyAgain = time.Time{}; return nil })
	await(t, "the index", func() bool {
		indexed, err := indexedUpTo(t.Context(), s.reading, accountsIndexed)
		return err != nil || indexed > 0
	})
	checkLedger(t, s, account)
}

func TestAnEventIsNotDroppedWithATransactionThatSQLiteHasUndone(t *testing.T) {
	s, account := funded(t, filepath.Join(t.TempDir(), "gateway.db"), 1_000_000)
	id := put(t, s, "app_1")
	allow := undo(t, s, "ledger_tail")
	err := s.writer.do(t.Context(), &operation{apply: func(w *writer) error {
		if _, err := w.begin(); err != nil {
			return err
		}
		if err := w.enterAllArrivals(); err != nil {
			return err
		}
		_, err := w.admit(holdOf(account))
		return err
	}})
	if err == nil {
		t.Fatal("admitted")
	}
	allow()
	if ids := pending(t, s); len(ids) != 1 || ids[0] != id {
		t.Errorf("the events are %v", ids)
	}
}

// What is refused for another operation of its group is not refused for good: who hears so never asks again.
func TestARefusalIsTakenBackWithWhatItWasFor(t *testing.T) {
	s, account := funded(t, filepath.Join(t.TempDir(), "gateway.db"), 1_000_000)
	a := holdOf(account)
	if _, err := s.Admit(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	told := make(chan error, 2)
	tell := func(err error) { told <- err }
	inWriter(t, s, func(*writer) error { // what comes meanwhile is one group
		s.SettleHold(a.HoldID, store.Captured, "wamid.1", tell)
		s.SettleHold(a.HoldID, store.Released, "", tell)
		s.writer.queue.add(&operation{after: func(error) {}, apply: func(*writer) error { return errors.New("the disk fails") }})
		return nil
	})
	for range 2 {
		if err := <-told; err == nil || store.Answered(err) {
			t.Errorf("nothing has been captured, and a settlement is answered with %v", err)
		}
	}
	if err := s.Release(t.Context(), a.HoldID); err != nil {
		t.Error(err)
	}
}

func TestAFeeThatCameEarlyOutlastsAFailureOfTheNext(t *testing.T) {
	s, account := funded(t, filepath.Join(t.TempDir(), "gateway.db"), 1_000_000)
	a := holdOf(account)
	if _, err := s.Admit(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	status := store.Status{MessageID: "wamid.1", TemplateFee: map[string]pricing.Micros{"USD": 7}}
	if results, err := s.Receive(t.Context(), nil, []store.Status{status}); err != nil || results[0].Fee != store.FeeUnknownMessage {
		t.Fatalf("%+v, %v", results, err)
	}
	status.Hold = a.HoldID
	failing(t, s, func(w *writer) error {
		_, err := w.applyStatus(status)
		return err
	})
	if err := s.Capture(t.Context(), a.HoldID, "wamid.1"); err != nil {
		t.Fatal(err)
	}
	if b, err := s.Balance(t.Context(), account); err != nil || b.Captured != a.Fee+7 {
		t.Errorf("%+v, %v", b, err)
	}
}
