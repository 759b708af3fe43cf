package sqlite

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/storetest"
)

// open opens the database at path as a gateway does.
func open(t testing.TB, path string, clock func() time.Time) *Store {
	t.Helper()
	s, err := Open(t.Context(), path, Options{Exclusive: true, Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestConformance(t *testing.T) {
	storetest.Run(t, storetest.Harness{Open: openInstance})
}

func TestFollower(t *testing.T) {
	storetest.RunFollower(t, storetest.Harness{Open: openInstance})
}

func openInstance(t *testing.T) *storetest.Instance {
	path := filepath.Join(t.TempDir(), "gateway.db")
	clock := storetest.NewClock()
	return &storetest.Instance{
		Store:   open(t, path, clock.Now),
		Reopen:  func() store.Store { return open(t, path, clock.Now) },
		Now:     clock.Now,
		Advance: clock.Advance,
	}
}
