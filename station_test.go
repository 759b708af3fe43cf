package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/connexease/caddy-whatsapp-gateway/core/coretest"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

const (
	stationPepper = "a pepper for tests"
	coreToken     = "a-token-for-tests"
)

// stored is where the gateways of a test keep their data.
type stored struct {
	redis *redistest.Server // nil: sqlite
	dir   string            // of the database, or of the journals
}

// eachStore runs a test on every store.
func eachStore(t *testing.T, test func(t *testing.T, s stored)) {
	t.Run("sqlite", func(t *testing.T) { test(t, stored{dir: t.TempDir()}) })
	t.Run("redis", func(t *testing.T) { test(t, onRedis(t)) })
}

func onRedis(t *testing.T) stored {
	t.Helper()
	return stored{redis: redistest.Start(t), dir: t.TempDir()}
}

// backend is the configuration of the store for the gateway with this number.
func (s stored) backend(number int) json.RawMessage {
	config := map[string]any{"backend": "sqlite", "path": filepath.Join(s.dir, "gateway.db")}
	if s.redis != nil {
		config = map[string]any{
			"backend": "redis", "urls": []string{s.redis.URL()}, "journal": filepath.Join(s.dir, fmt.Sprint(number)),
			// Slow machines run tests, too. Each gateway has a connection of its own.
			"timeout": int64(time.Second) + int64(number),
		}
	}
	raw, err := json.Marshal(config)
	if err != nil {
		panic(err)
	}
	return raw
}

// station is a gateway of a test. Nothing goes on in its background.
type station struct {
	*App
	t    *testing.T
	logs *observer.ObservedLogs
	stop func()
}

// newApp is a gateway that is configured and does not run.
func newApp(t *testing.T, s stored, number int, core *testCore, edit ...func(*App)) *App {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	a := &App{
		StoreRaw: s.backend(number), KeyPepper: stationPepper,
		EncryptionKeys: []EncryptionKey{{ID: "k1", Secret: encryptionKey1}}, MetaAppSecrets: []string{benchSecret},
	}
	if core != nil {
		a.Core = &CoreService{URL: core.url, Token: coreToken}
	}
	for _, e := range edit {
		e(a)
	}
	if err := a.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	if err := a.Validate(); err != nil {
		t.Fatal(err)
	}
	return a
}

// newStation opens a gateway on a store, beside a Core Service unless that is nil.
func newStation(t *testing.T, s stored, number int, core *testCore, edit ...func(*App)) *station {
	t.Helper()
	a := newApp(t, s, number, core, edit...)
	seen, logs := observer.New(zapcore.InfoLevel)
	a.logger = zap.New(seen)
	if err := a.acquire(); err != nil {
		t.Fatal(err)
	}
	st := &station{App: a, t: t, logs: logs}
	released := false
	st.stop = func() {
		if !released {
			released = true
			a.release()
		}
	}
	t.Cleanup(st.stop)
	if s.redis != nil {
		await(t, "the subscription to changes of keys", func() bool { return a.store.Generation() > 0 })
	}
	return st
}

// await waits for something that happens by itself.
func await(t *testing.T, what string, happened func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !happened() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// testCore is a Core Service that runs.
type testCore struct {
	*coretest.Service
	url string
}

func newCore(t *testing.T) *testCore {
	t.Helper()
	service := coretest.New(coreToken)
	server := httptest.NewServer(service)
	t.Cleanup(func() { service.Close(); server.Close() })
	return &testCore{service, server.URL}
}

// coreApp is the app that the Core Service knows in tests.
func coreApp() tenant.App {
	return tenant.App{
		ID: "app_core", AccountID: "acct_core", PhoneNumberID: "100", WABAID: "200",
		Webhook: &tenant.Webhook{URL: "https://customer.example/hook", Secret: "webhook-secret"},
	}
}

// newKey adds the app, its account with this credit and a key of its own.
func (c *testCore) newKey(t *testing.T, credit int64) tenant.Key {
	t.Helper()
	key := tenant.NewKey(false)
	must(t, c.PutAccount("acct_core", "USD"))
	_, err := c.Credit("acct_core", credit)
	must(t, err)
	must(t, c.PutApp(coreApp()))
	must(t, c.PutKey(digestOf(key), coretest.Key{ID: "key_core", AppID: "app_core"}))
	return key
}

func digestOf(key tenant.Key) tenant.KeyDigest { return tenant.NewPepper(stationPepper).Digest(key) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newStoredKey adds an account, an app and a key to the store's own directory.
func (s *station) newStoredKey() tenant.Key {
	s.t.Helper()
	key := tenant.NewKey(false)
	ctx := s.t.Context()
	must(s.t, s.store.CreateAccount(ctx, tenant.Account{ID: "acct_own", Name: "Own", Currency: "USD", CreatedAt: now()}))
	must(s.t, s.store.CreateApp(ctx, tenant.App{
		ID: "app_own", AccountID: "acct_own", PhoneNumberID: "300", WABAID: "400", CreatedAt: now(),
		Webhook: &tenant.Webhook{URL: "https://own.example/hook"},
	}))
	must(s.t, s.store.CreateKey(ctx, tenant.APIKey{ID: "key_own", AppID: "app_own", Digest: digestOf(key), CreatedAt: now()}))
	return key
}

// count is what a counter has counted.
func count(c prometheus.Metric) float64 {
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		panic(err)
	}
	return m.GetCounter().GetValue() + m.GetGauge().GetValue()
}

// admission is a request of an account's to send a message.
func admission(account tenant.AccountID, mode store.Mode) store.Admission {
	a := store.Admission{Mode: mode, App: "app_core", Account: account, Limits: defaultRateLimit}
	if mode == store.Hold {
		a.Fee, a.HoldID = 1000, store.NewHoldIDFor(account)
	}
	return a
}
