package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/connexease/caddy-whatsapp-gateway/delivery"
	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	_ "github.com/connexease/caddy-whatsapp-gateway/store/redis"  // the one for many gateways
	_ "github.com/connexease/caddy-whatsapp-gateway/store/sqlite" // the default
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

func init() {
	caddy.RegisterModule(new(App))
}

// App is the part of the gateway that the handlers of all sites share: the
// store, the secrets and the prices. Any secret may be a placeholder such as
// {env.NAME} or {file.PATH}; one that is unset is an error.
type App struct {
	// Where accounts, keys and wallets are kept. Default: sqlite.
	StoreRaw json.RawMessage `json:"store,omitempty" caddy:"namespace=whatsapp_gateway.stores inline_key=backend"`

	// The owner's own system of record: what the store does not know about keys, apps
	// and credits is asked there, and the ledger is reported there. Default: none, and
	// the store is the system of record.
	Core *CoreService `json:"core,omitempty"`

	// How long what a key may do, or that a key is unknown, is believed without
	// asking the store again.
	KeyCache KeyCache `json:"key_cache,omitzero"`

	// How long beyond that what a key may do is believed while it cannot be looked
	// up, because who would know is away: the Core Service, or the store. A key that is
	// revoked meanwhile may work for as long, so the default is not at all.
	KeyCacheStale caddy.Duration `json:"key_cache_stale,omitempty"`

	// The secret under which API keys are digested. Default: made once and
	// kept in a file beside the sqlite database. It is required with any other store
	// and with a Core Service, which have to work with the same one.
	KeyPepper string `json:"key_pepper,omitempty"`

	// The keys that access tokens are encrypted under, the first for new ones.
	// Default and requirement as with the pepper.
	EncryptionKeys []EncryptionKey `json:"encryption_key,omitempty"`

	// The limits of apps that have none of their own. Default: 80 a second,
	// 4800 a minute.
	RateLimit *tenant.RateLimit `json:"rate_limit,omitempty"`

	// What a message costs that Meta accepts, in the account's currency.
	// Default: 0.001.
	BaseFee *pricing.Micros `json:"base_fee,omitempty"`

	// The CSV file with the fees of template messages. Default: the built-in one,
	// with Meta's published rates. Placeholders are allowed.
	RateCard string `json:"rate_card,omitempty"`

	// What becomes of a send whose outcome never arrived.
	InDoubt InDoubt `json:"in_doubt,omitzero"`

	// What Meta has to present when it verifies the webhook. Default: nothing is
	// good enough.
	WebhookVerifyToken string `json:"webhook_verify_token,omitempty"`

	// The app secrets of Meta's that may have signed a webhook. Default: none, and
	// every webhook is refused.
	MetaAppSecrets []string `json:"meta_app_secret,omitempty"`

	// How events are delivered to the apps' endpoints.
	Delivery Delivery `json:"delivery,omitzero"`

	logger  *zap.Logger
	backend backend
	rates   *pricing.RateCard
	// stop ends the background work; it is nil unless that is under way.
	stop    context.CancelFunc
	stopped sync.WaitGroup
	worker  *delivery.Worker
	// longestSend is the longest upstream_timeout of the handlers.
	longestSend time.Duration

	// mu guards what follows. users are the app itself, from Start to Stop,
	// and every request under way: the store is open while there is any.
	mu     sync.Mutex
	users  int
	store  *sharedStore
	core   *coreService // nil: there is none
	grants *grantCache
	routes *routeCache
	totals *totals
}

// KeyCache says how long answers about keys are believed.
type KeyCache struct {
	// How long a known key is. A key revoked elsewhere may work that long.
	// Default: 30s.
	Lifetime caddy.Duration `json:"lifetime,omitempty"`
	// How long an unknown key is. Default: 10s.
	NegativeLifetime caddy.Duration `json:"negative_lifetime,omitempty"`
}

// InDoubt is the policy for holds without an outcome.
type InDoubt struct {
	// How long after the send the policy applies. Default: 24h.
	After caddy.Duration `json:"after,omitempty"`
	// "capture" charges the send, "release" gives the fee back. Default: capture.
	Outcome string `json:"outcome,omitempty"`
}

// backend is a store's Caddy module.
type backend interface {
	// Resolve settles the configuration without touching anything outside.
	Resolve() error
	// Key is equal for configurations that mean the same data.
	Key() string
	// Open opens the store, to serve requests or to administer.
	Open(ctx context.Context, serving bool) (store.Store, error)
}

const (
	defaultLifetime         = 30 * time.Second
	defaultNegativeLifetime = 10 * time.Second
	defaultBaseFee          = pricing.Micros(1_000)
	defaultInDoubt          = 24 * time.Hour
	inDoubtCapture          = "capture"
	inDoubtRelease          = "release"
	// openTimeout bounds the opening of a store.
	openTimeout = 30 * time.Second
)

var defaultRateLimit = tenant.RateLimit{PerSecond: 80, PerMinute: 4800}

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "whatsapp_gateway",
		New: func() caddy.Module { return new(App) },
	}
}

// Provision sets up the app. It opens nothing, because validating a
// configuration provisions it, too.
func (a *App) Provision(ctx caddy.Context) error {
	a.logger = ctx.Logger()
	if err := a.provisionBackend(ctx); err != nil {
		return err
	}
	if err := a.resolveSecrets(); err != nil {
		return err
	}
	if err := a.checkSecrets(); err != nil {
		return err
	}
	if err := a.provisionCore(); err != nil {
		return err
	}
	if err := a.resolveWebhookSecrets(); err != nil {
		return err
	}
	if err := a.loadRates(); err != nil {
		return err
	}
	if err := registerMetrics(ctx.GetMetricsRegistry()); err != nil {
		return err
	}
	setDefault(&a.Delivery.Timeout, caddy.Duration(delivery.DefaultTimeout))
	setDefault(&a.KeyCache.Lifetime, caddy.Duration(defaultLifetime))
	setDefault(&a.KeyCache.NegativeLifetime, caddy.Duration(defaultNegativeLifetime))
	setDefault(&a.InDoubt.After, caddy.Duration(defaultInDoubt))
	setDefault(&a.InDoubt.Outcome, inDoubtCapture)
	if a.RateLimit == nil {
		a.RateLimit = &defaultRateLimit
	}
	if a.BaseFee == nil {
		fee := defaultBaseFee
		a.BaseFee = &fee
	}
	return nil
}

// setDefault gives a setting that was left out its value.
func setDefault[T comparable](setting *T, value T) {
	if zero := *new(T); *setting == zero {
		*setting = value
	}
}

func (a *App) provisionBackend(ctx caddy.Context) error {
	if a.StoreRaw == nil {
		a.StoreRaw = json.RawMessage(`{"backend":"sqlite"}`)
	}
	module, err := ctx.LoadModule(a, "StoreRaw")
	if err != nil {
		return fmt.Errorf("loading store: %w", err)
	}
	var ok bool
	if a.backend, ok = module.(backend); !ok {
		return fmt.Errorf("%T is not a store", module)
	}
	return a.backend.Resolve()
}

// loadRates reads the rate card.
func (a *App) loadRates() error {
	if a.RateCard == "" {
		a.rates = pricing.DefaultRateCard()
		return nil
	}
	path, err := caddy.NewReplacer().ReplaceOrErr(a.RateCard, true, true)
	if err != nil {
		return fmt.Errorf("rate_card: %w", err)
	}
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("rate_card: %w", err)
	}
	defer file.Close()
	if a.rates, err = pricing.ParseRateCard(file); err != nil {
		return fmt.Errorf("rate_card: %s: %w", path, err)
	}
	return nil
}

// Validate refuses settings that make no sense.
func (a *App) Validate() error {
	switch {
	case a.KeyCache.Lifetime < 0 || a.KeyCache.NegativeLifetime < 0:
		return errors.New("key_cache: a duration cannot be negative")
	case a.KeyCacheStale < 0:
		return errors.New("key_cache_stale: the duration cannot be negative")
	case *a.BaseFee < 0:
		return errors.New("base_fee cannot be negative")
	case a.InDoubt.Outcome != inDoubtCapture && a.InDoubt.Outcome != inDoubtRelease:
		return fmt.Errorf("in_doubt: outcome must be capture or release, not %q", a.InDoubt.Outcome)
	case a.InDoubt.After < 0:
		return errors.New("in_doubt: the duration cannot be negative")
	}
	if err := a.RateLimit.Validate(); err != nil {
		return fmt.Errorf("rate_limit: %w", err)
	}
	return a.Delivery.validate()
}

// Start opens the store, and begins with what goes on in the background: events are
// delivered, holds in doubt looked after, the Core Service followed and told, and
// what had to wait for the store is replayed.
func (a *App) Start() error {
	if err := a.acquire(); err != nil {
		return err
	}
	heapFloor()
	var ctx context.Context
	ctx, a.stop = context.WithCancel(context.Background())
	a.stopped.Go(func() { a.watchInDoubt(ctx) })
	if a.store.journal != nil {
		a.stopped.Go(func() { a.replayJournal(ctx) })
	}
	if follower, ok := a.store.Store.(store.Follower); ok && a.core != nil {
		a.stopped.Go(func() { a.totals.followInUse(ctx, follower) })
		a.stopped.Go(func() { newReporter(follower, a.core, a.logger).run(ctx) })
	}
	a.deliver(ctx)
	return nil
}

// Stop ends the background work. The store stays open for the requests and
// deliveries under way: servers are stopped in no particular order.
func (a *App) Stop() error {
	if a.stop == nil {
		return nil
	}
	a.stop()
	a.stopped.Wait()
	a.stop = nil
	a.release()
	return nil
}

// Cleanup lets a process that exits wait for its last sends to be settled, for
// as long as one may take: a client that is slow to upload is not waited for.
// Sends of configurations that a reload has ended are among them. A reload does
// not wait: the requests under way keep the store open themselves.
func (a *App) Cleanup() error {
	// Caddy does not stop the apps of a configuration that fails at its last step.
	if err := a.Stop(); err != nil {
		return err
	}
	if !caddy.Exiting() {
		return nil
	}
	select {
	case <-appsInUse.none():
	case <-time.After(store.AdmitTimeout + max(a.longestSend, time.Duration(a.Delivery.Timeout)) + settleTimeout):
		a.logger.Warn("exiting with requests under way")
	}
	return nil
}

// acquire makes sure that the store is open until the matching release. Every
// request does so for itself, because one may arrive before Start, when the
// server happens to be started first, and after Stop, on a connection that
// outlives a reload.
func (a *App) acquire() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.users == 0 {
		if err := a.open(); err != nil {
			return err
		}
		appsInUse.add(1)
	}
	a.users++
	return nil
}

// release ends one acquire.
func (a *App) release() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.users--; a.users > 0 {
		return
	}
	a.core.close()
	if _, err := stores.Delete(a.backend.Key()); err != nil {
		a.logger.Error("closing the store failed", zap.Error(err))
	}
	appsInUse.add(-1)
}

// open takes the store from the pool, where a configuration that came before
// may have left it open.
func (a *App) open() (err error) {
	pepper, ring, err := a.secrets()
	if err != nil {
		return err
	}
	pooled, _, err := stores.LoadOrNew(a.backend.Key(), func() (caddy.Destructor, error) {
		return openShared(a.backend, a.logger)
	})
	if err != nil {
		return err
	}
	s := pooled.(*sharedStore)
	s.setLogger(a.logger)
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	defer cancel()
	if err := s.BindPepper(ctx, pepper.Fingerprint()); err != nil {
		_, closeErr := stores.Delete(a.backend.Key())
		return errors.Join(err, closeErr)
	}
	a.store = s
	a.openCore(s)
	if a.grants == nil {
		a.routes = newRouteCache(time.Duration(a.KeyCache.NegativeLifetime))
		a.grants = newGrantCache(pepper, ring, a.core, cacheLifetimes{
			time.Duration(a.KeyCache.Lifetime), time.Duration(a.KeyCache.NegativeLifetime), time.Duration(a.KeyCacheStale),
		})
		a.totals = newTotals(a.core)
	}
	return nil
}

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.Validator    = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
