package gateway

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/seal"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/sqlite"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// watchedDirectory is a directory whose look-ups can be counted and held up.
type watchedDirectory struct {
	store.Store
	lookUps atomic.Int64
	// before and after, if set, are called around every look-up.
	before, after func()
}

func (d *watchedDirectory) Grant(ctx context.Context, digest tenant.KeyDigest) (*tenant.Grant, error) {
	d.lookUps.Add(1)
	if d.before != nil {
		d.before()
	}
	g, err := d.Store.Grant(ctx, digest)
	if d.after != nil {
		d.after()
	}
	return g, err
}

// newWatched returns a directory with one app and one key, and a cache on it.
func newWatched(t *testing.T, lifetime time.Duration) (*watchedDirectory, *grantCache, tenant.Key, tenant.KeyID) {
	t.Helper()
	s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "gateway.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	pepper := tenant.NewPepper("pepper")
	key := tenant.NewKey(false)
	record := tenant.APIKey{ID: "key_1", AppID: "app_1", Digest: pepper.Digest(key), CreatedAt: time.Now()}
	if err := errors.Join(
		s.CreateApp(t.Context(), tenant.App{ID: "app_1", Name: "Test", CreatedAt: time.Now()}),
		s.CreateKey(t.Context(), record),
	); err != nil {
		t.Fatal(err)
	}
	return &watchedDirectory{Store: s}, newGrantCache(pepper, new(seal.Ring), nil, cacheLifetimes{lifetime: lifetime, negativeLifetime: lifetime}), key, record.ID
}

func TestManyRequestsWaitForOneLookUp(t *testing.T) {
	d, cache, key, _ := newWatched(t, time.Hour)
	const requests = 50
	waiting := make(chan struct{}, requests)
	var once sync.Once
	d.before = func() {
		once.Do(func() {
			for range requests {
				<-waiting
			}
		})
	}
	var all sync.WaitGroup
	for range requests {
		all.Go(func() {
			waiting <- struct{}{}
			if g, err := cache.get(t.Context(), d, key); err != nil || g.App.ID != "app_1" {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := d.lookUps.Load(); n > 2 { // one may have been between cache and look-up
		t.Errorf("%d look-ups for %d requests", n, requests)
	}
}

func TestUnknownKeysAreRemembered(t *testing.T) {
	d, cache, _, _ := newWatched(t, time.Hour)
	key := tenant.NewKey(false)
	for range 10 {
		if _, err := cache.get(t.Context(), d, key); !errors.Is(err, store.ErrNotFound) {
			t.Fatal(err)
		}
	}
	if n := d.lookUps.Load(); n != 1 {
		t.Errorf("%d look-ups", n)
	}
}

func TestGrantsAreLookedUpAgainWhenTheirTimeIsOver(t *testing.T) {
	d, cache, key, _ := newWatched(t, 0)
	for range 3 {
		if _, err := cache.get(t.Context(), d, key); err != nil {
			t.Fatal(err)
		}
	}
	if n := d.lookUps.Load(); n != 3 {
		t.Errorf("%d look-ups", n)
	}
}

func TestRevocationDuringALookUpIsNotForgotten(t *testing.T) {
	d, cache, key, id := newWatched(t, time.Hour)
	d.after = func() {
		if err := d.RevokeKey(t.Context(), id, time.Now()); err != nil {
			t.Error(err)
		}
	}
	if _, err := cache.get(t.Context(), d, key); err != nil {
		t.Fatalf("before the revocation: %v", err)
	}
	if _, err := cache.get(t.Context(), d, key); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("after the revocation: %v", err)
	}
}

func TestLookUpOfBeforeARevocationIsNotJoined(t *testing.T) {
	d, cache, key, id := newWatched(t, time.Hour)
	read, goOn := make(chan struct{}), make(chan struct{})
	var held atomic.Bool
	d.after = func() {
		if held.CompareAndSwap(false, true) {
			close(read)
			<-goOn
		}
	}
	early := make(chan error, 1)
	go func() {
		_, err := cache.get(t.Context(), d, key)
		early <- err
	}()
	<-read
	if err := d.RevokeKey(t.Context(), id, time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := cache.get(t.Context(), d, key); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("after the revocation: %v", err)
	}
	close(goOn)
	if err := <-early; err != nil {
		t.Errorf("before the revocation: %v", err)
	}
}

func TestALookUpGoesOnWithoutWhoBeganIt(t *testing.T) {
	d, cache, key, _ := newWatched(t, time.Hour)
	started, goOn := make(chan struct{}), make(chan struct{})
	d.before = sync.OnceFunc(func() { close(started); <-goOn })
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := cache.get(ctx, d, key)
		first <- err
	}()
	<-started
	second := make(chan error, 1)
	go func() {
		_, err := cache.get(t.Context(), d, key)
		second <- err
	}()
	cancel()
	close(goOn)
	if err := errors.Join(<-first, <-second); err != nil {
		t.Fatal(err)
	}
	if n := d.lookUps.Load(); n != 1 { // what it has found is remembered
		t.Errorf("%d look-ups", n)
	}
}

func TestAuthorizationHeaderOfEveryShape(t *testing.T) {
	d, cache, key, _ := newWatched(t, time.Hour)
	h := &Handler{app: &App{grants: cache, store: &sharedStore{Store: d}}}
	ours := string(key)
	for _, tc := range []struct {
		values []string
		want   *problem
	}{
		{nil, keyMissing},
		{[]string{""}, keyMalformed},
		{[]string{"Bearer"}, keyMalformed},
		{[]string{"Bearer "}, keyMalformed},
		{[]string{ours}, keyMalformed},
		{[]string{"bearer " + ours}, keyMalformed},
		{[]string{"BEARER " + ours}, keyMalformed},
		{[]string{"Bearer  " + ours}, keyMalformed},
		{[]string{"Bearer\t" + ours}, keyMalformed},
		{[]string{"Bearer " + ours + " x"}, keyMalformed},
		{[]string{"Bearer " + ours + "\x7f"}, keyMalformed},
		{[]string{"Bearer ключ-ключ-ключ-ключ"}, keyMalformed},
		{[]string{"Basic dXNlcjpwYXNzd29yZA=="}, keyMalformed},
		{[]string{"Bearer " + ours, "Bearer " + ours}, keyMalformed},
		{[]string{"Bearer short"}, keyUnknown},
		{[]string{"Bearer " + ours[:len(ours)-1] + "-"}, keyUnknown},
		{[]string{"Bearer " + strings.Repeat("a", 600)}, keyUnknown},
		{[]string{"Bearer " + ours}, nil},
	} {
		r := httptest.NewRequest(http.MethodPost, messagePath, nil)
		r.Header["Authorization"] = tc.values
		if tc.values == nil {
			r.Header.Del("Authorization")
		}
		f := h.authenticate(r, new(send))
		if tc.want == nil && f != nil || tc.want != nil && (f == nil || f.problem != tc.want) {
			t.Errorf("%d values: %+v, want %+v", len(tc.values), f, tc.want)
		}
	}
}
