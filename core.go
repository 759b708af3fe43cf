package gateway

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/connexease/caddy-whatsapp-gateway/core"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// CoreService says where the owner's own system of record is. core/openapi.yaml is
// what it answers.
type CoreService struct {
	// The base URL of its routes, http or https.
	URL string `json:"url,omitempty"`
	// The secret that every request presents as its bearer token. It is required,
	// because the answers hold credentials.
	Token string `json:"token,omitempty"`
	// How long one request may take. Default: 2s.
	Timeout caddy.Duration `json:"timeout,omitempty"`
}

// provisionCore settles the configuration of the Core Service, if there is one. It
// connects to nothing.
func (a *App) provisionCore() error {
	if a.Core == nil {
		return nil
	}
	if err := resolveSecret("core: token", &a.Core.Token); err != nil {
		return err
	}
	setDefault(&a.Core.Timeout, caddy.Duration(core.DefaultTimeout))
	if err := a.coreConfig().Validate(); err != nil {
		return fmt.Errorf("core: %w", err)
	}
	return nil
}

func (a *App) coreConfig() core.Config {
	return core.Config{URL: a.Core.URL, Token: a.Core.Token, Timeout: time.Duration(a.Core.Timeout), UserAgent: userAgent}
}

// coreService is the Core Service, and whether it was there the last time.
type coreService struct {
	// client is another one whenever the store is opened again; a look-up that
	// nobody waits for any more may still have the one before.
	client atomic.Pointer[core.Client]
	logger *zap.Logger
	away   atomic.Bool
}

// openCore makes the client, if there is a Core Service. It follows the store's
// generation, which tells what may be out of date.
func (a *App) openCore(directory store.Directory) {
	if a.Core == nil {
		return
	}
	if a.core == nil {
		a.core = &coreService{logger: a.logger}
	}
	config := a.coreConfig()
	config.Generation = directory.Generation
	a.core.client.Store(core.New(config))
}

// close ends what is under way.
func (c *coreService) close() {
	if c != nil {
		c.client.Load().Close()
	}
}

// errCoreAway means that the Core Service gave no answer.
var errCoreAway = errors.New("the core service is away")

// note tells about the begin and the end of an outage, once each. It returns err,
// marked with [errCoreAway] where that is what it means.
func (c *coreService) note(err error) error {
	if err == nil || errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrCorrupt) {
		if c.away.Load() && c.away.CompareAndSwap(true, false) {
			c.logger.Info("the core service is back")
		}
		return err
	}
	if !errors.Is(err, context.Canceled) { // by the gateway itself
		metrics.coreFailures.Inc()
		if c.away.CompareAndSwap(false, true) {
			c.logger.Warn("the core service is away", zap.Error(err))
		}
	}
	return fmt.Errorf("%w: %w", errCoreAway, err)
}

// Grant looks a key up, as [store.Directory.Grant] does.
func (c *coreService) Grant(ctx context.Context, digest tenant.KeyDigest) (*tenant.Grant, error) {
	grant, err := c.client.Load().Grant(ctx, digest)
	return grant, c.note(err)
}

// AppsWithNumber implements [appFinder].
func (c *coreService) AppsWithNumber(ctx context.Context, phoneNumberID string) ([]tenant.App, error) {
	apps, err := c.client.Load().AppsWithNumber(ctx, phoneNumberID)
	return apps, c.note(err)
}

// AppsOfWABA implements [appFinder].
func (c *coreService) AppsOfWABA(ctx context.Context, wabaID string) ([]tenant.App, error) {
	apps, err := c.client.Load().AppsOfWABA(ctx, wabaID)
	return apps, c.note(err)
}

// Account returns what the Core Service says of an account.
func (c *coreService) Account(ctx context.Context, id tenant.AccountID) (store.Total, error) {
	total, err := c.client.Load().Account(ctx, id)
	return total, c.note(err)
}

// Report sends ledger entries.
func (c *coreService) Report(ctx context.Context, entries []store.ReportedEntry) error {
	return c.note(c.client.Load().Report(ctx, entries))
}

// Interface guards
var (
	_ appFinder = (*coreService)(nil)
	_ appFinder = store.Directory(nil)
)
