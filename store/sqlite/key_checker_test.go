package sqlite

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/sqlitefile"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// withKeys opens a store with the keys of these digests.
func withKeys(t *testing.T, path string, digests ...tenant.KeyDigest) *Store {
	t.Helper()
	s := open(t, path, time.Now)
	app := tenant.App{ID: "app_1", Name: "App", CreatedAt: time.Now()}
	if err := s.CreateApp(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	for _, d := range digests {
		if err := s.CreateKey(t.Context(), tenant.APIKey{ID: tenant.KeyID(tenant.NewID("key")), AppID: app.ID, Digest: d}); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func TestThoseWhoAskTogetherGetTheirOwnAnswers(t *testing.T) {
	const each = 2 * maxKeyChecks
	var known []tenant.KeyDigest
	for i := range each {
		known = append(known, tenant.KeyDigest{1, byte(i)})
	}
	s := withKeys(t, filepath.Join(t.TempDir(), "gateway.db"), known...)
	var wg sync.WaitGroup
	for i := range each {
		wg.Go(func() {
			if g, err := s.Grant(t.Context(), known[i]); err != nil || g.App.ID != "app_1" {
				t.Errorf("a known key: %v", err)
			}
		})
		wg.Go(func() {
			if _, err := s.Grant(t.Context(), tenant.KeyDigest{2, byte(i)}); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("an unknown key: %v, want ErrNotFound", err)
			}
		})
	}
	wg.Wait()
}

// What cannot be read is not unknown: that would be remembered.
func TestAKeyThatCannotBeLookedUpIsNotUnknown(t *testing.T) {
	path, known := filepath.Join(t.TempDir(), "gateway.db"), tenant.KeyDigest{1}
	s := withKeys(t, path, known)
	db, err := sqlitefile.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rename := func(from, to string) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), "ALTER TABLE "+from+" RENAME TO "+to); err != nil {
			t.Fatal(err)
		}
	}
	rename("api_keys", "hidden")
	for range 2 {
		for _, digest := range []tenant.KeyDigest{known, {2}} {
			if _, err := s.Grant(t.Context(), digest); err == nil || store.Answered(err) {
				t.Errorf("without the table: %v", err)
			}
		}
	}
	rename("hidden", "api_keys")
	if _, err := s.Grant(t.Context(), known); err != nil {
		t.Error(err)
	}
}

func TestLookUpsEndWithTheStore(t *testing.T) {
	s := withKeys(t, filepath.Join(t.TempDir(), "gateway.db"))
	var wg sync.WaitGroup
	var asking sync.WaitGroup
	for i := range 2 * maxKeyChecks {
		asking.Add(1)
		wg.Go(func() {
			err := s.keys.ask(t.Context(), tenant.KeyDigest{byte(i)})
			for asking.Done(); errors.Is(err, store.ErrNotFound); {
				err = s.keys.ask(t.Context(), tenant.KeyDigest{byte(i)})
			}
			if !errors.Is(err, store.ErrClosed) {
				t.Errorf("%v, want ErrClosed", err)
			}
		})
	}
	asking.Wait()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
}

func TestWhoAsksMayGo(t *testing.T) {
	s := withKeys(t, filepath.Join(t.TempDir(), "gateway.db"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 2 * maxKeyChecks {
		if _, err := s.Grant(ctx, tenant.KeyDigest{}); !errors.Is(err, context.Canceled) && !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%v, want Canceled or the answer", err)
		}
	}
	if _, err := s.Grant(t.Context(), tenant.KeyDigest{}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("%v, want ErrNotFound", err)
	}
}
