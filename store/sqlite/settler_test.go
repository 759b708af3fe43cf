package sqlite

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/connexease/caddy-whatsapp-gateway/store"
)

func TestASettlementIsToldWhatBecameOfIt(t *testing.T) {
	s, account := funded(t, filepath.Join(t.TempDir(), "gateway.db"), 1_000_000)
	a := holdOf(account)
	if _, err := s.Admit(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	told := make(chan error, 4)
	tell := func(err error) { told <- err }
	s.SettleHold(a.HoldID, store.Captured, "wamid.1", tell)
	s.SettleHold(a.HoldID, store.Released, "", tell)
	s.SettleHold(store.NewHoldID(), store.Captured, "wamid.2", tell)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s.SettleHold(a.HoldID, store.Captured, "wamid.1", tell)
	for i, want := range []error{nil, store.ErrConflict, store.ErrNotFound, store.ErrClosed} {
		if err := <-told; !errors.Is(err, want) {
			t.Errorf("settlement %d: %v, want %v", i+1, err, want)
		}
	}
}

// Nobody waits for it, and it is committed all the same; whatever is asked afterwards sees it.
func TestASettlementIsCommittedByItself(t *testing.T) {
	s, account := funded(t, filepath.Join(t.TempDir(), "gateway.db"), 1_000_000)
	for range 50 {
		a := holdOf(account)
		if _, err := s.Admit(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		told := make(chan error, 1)
		s.SettleHold(a.HoldID, store.Captured, "wamid."+string(a.HoldID), func(err error) { told <- err })
		if b, err := s.Balance(t.Context(), account); b.Held != 0 || err != nil {
			t.Errorf("%d are held, error %v", b.Held, err)
		}
		if err := <-told; err != nil {
			t.Error(err)
		}
	}
	a := holdOf(account)
	if _, err := s.Admit(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	told := make(chan error)
	s.SettleHold(a.HoldID, store.Released, "", func(err error) { told <- err })
	if err := <-told; err != nil {
		t.Error(err)
	}
}
