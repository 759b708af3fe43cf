package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// maxRoutes bounds the cache of routes.
const maxRoutes = 10_000

// route is what an event is addressed by: a phone number id, or else a WABA id.
type route struct{ number, waba string }

// appFinder is where a route can be looked up: the store, and the Core Service.
type appFinder interface {
	AppsWithNumber(ctx context.Context, phoneNumberID string) ([]tenant.App, error)
	AppsOfWABA(ctx context.Context, wabaID string) ([]tenant.App, error)
}

// lookUp asks where the route leads.
func (r route) lookUp(ctx context.Context, finder appFinder) ([]tenant.App, error) {
	if r.number != "" {
		return finder.AppsWithNumber(ctx, r.number)
	}
	return finder.AppsOfWABA(ctx, r.waba)
}

// routeCache remembers which apps events go to, as [grantCache] does grants.
type routeCache struct {
	lifetime time.Duration
	cache    *lru.Cache[route, routed]
}

// routed is where a route leads.
type routed struct {
	apps       []tenant.App
	expires    time.Time
	generation uint64
}

func newRouteCache(lifetime time.Duration) *routeCache {
	c := &routeCache{lifetime: lifetime}
	c.cache, _ = lru.New[route, routed](maxRoutes) // an error means a size that is not positive
	return c
}

// appsOf returns the apps that a route leads to, which nobody may change.
func (a *App) appsOf(ctx context.Context, to route) ([]tenant.App, error) {
	// As with grants, the generation is read before the look-up.
	generation, now := a.store.Generation(), time.Now()
	if r, ok := a.routes.cache.Get(to); ok && r.generation == generation && now.Before(r.expires) {
		return r.apps, nil
	}
	apps, err := a.findApps(ctx, to)
	if err != nil {
		return nil, err
	}
	a.routes.cache.Add(to, routed{apps, now.Add(a.routes.lifetime), generation})
	return apps, nil
}

// findApps asks the Core Service, and the store where that knows none, is away, or
// is not there at all: an app may be made with the command line, too, and one
// that the Core Service has named before is in the store.
func (a *App) findApps(ctx context.Context, to route) ([]tenant.App, error) {
	if a.core == nil {
		return to.lookUp(ctx, a.store)
	}
	apps, coreErr := to.lookUp(ctx, a.core)
	switch {
	case errors.Is(coreErr, store.ErrCorrupt):
		return nil, coreErr
	case coreErr == nil && len(apps) > 0:
		for i := range apps {
			if err := a.adopt(ctx, apps[i]); err != nil {
				return nil, err
			}
		}
		return apps, nil
	}
	apps, err := to.lookUp(ctx, a.store)
	if err == nil && len(apps) == 0 && errors.Is(coreErr, errCoreAway) {
		return nil, coreErr // it may be one that only the Core Service knows
	}
	return apps, err
}

// adopt writes an app of the Core Service's into the store's directory, where the
// worker that delivers finds it. An account that the Core Service names and does not
// know is left out.
func (a *App) adopt(ctx context.Context, app tenant.App) error {
	err := a.writeApp(ctx, app)
	if !errors.Is(err, store.ErrNotFound) || app.AccountID == "" {
		return err
	}
	follower, ok := a.store.Store.(store.Follower)
	if !ok {
		return err
	}
	switch l := a.totals.follow(ctx, follower, app.AccountID); {
	case errors.Is(l.err, store.ErrNotFound):
		app.AccountID = ""
	case l.err != nil:
		return l.err
	}
	return a.writeApp(ctx, app)
}

// writeApp makes or changes an app. [store.ErrNotFound]: there is no such account.
func (a *App) writeApp(ctx context.Context, app tenant.App) error {
	change := func(stored *tenant.App) error {
		if changed := merged(*stored, app); !sameApp(*stored, changed) {
			*stored = changed
			return nil
		}
		return errUnchanged
	}
	_, err := a.store.UpdateApp(ctx, app.ID, change)
	if errors.Is(err, store.ErrNotFound) { // the app, or its account
		app.CreatedAt = now()
		if err = a.store.CreateApp(ctx, app); errors.Is(err, store.ErrExists) { // meanwhile, or before
			_, err = a.store.UpdateApp(ctx, app.ID, change)
		}
	}
	if errors.Is(err, errUnchanged) {
		return nil
	}
	return err
}

// errUnchanged says that there is nothing to write.
var errUnchanged = errors.New("nothing has changed")

// merged is a stored app as the Core Service wants it, with what that does not know:
// the operator's name, if it has none of its own, and that the endpoint is gone.
func merged(stored, app tenant.App) tenant.App {
	if app.Name == "" {
		app.Name = stored.Name
	}
	if app.Webhook != nil && stored.Webhook != nil && app.Webhook.URL == stored.Webhook.URL && app.Webhook.DisabledAt == nil {
		webhook := *app.Webhook
		webhook.DisabledAt = stored.Webhook.DisabledAt
		app.Webhook = &webhook
	}
	return app
}

// sameApp compares what is stored of apps.
func sameApp(a, b tenant.App) bool {
	before, err1 := json.Marshal(a)
	after, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && bytes.Equal(before, after)
}
