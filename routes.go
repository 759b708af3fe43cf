package gateway

import (
	"context"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// maxRoutes bounds the cache of routes.
const maxRoutes = 10_000

// route is what an event is addressed by: a phone number id, or else a WABA id.
type route struct{ number, waba string }

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

// get returns the apps that a route leads to, which nobody may change.
func (c *routeCache) get(ctx context.Context, directory store.Directory, to route) ([]tenant.App, error) {
	// As with grants, the generation is read before the look-up.
	generation, now := directory.Generation(), time.Now()
	if r, ok := c.cache.Get(to); ok && r.generation == generation && now.Before(r.expires) {
		return r.apps, nil
	}
	var apps []tenant.App
	var err error
	if to.number != "" {
		apps, err = directory.AppsWithNumber(ctx, to.number)
	} else {
		apps, err = directory.AppsOfWABA(ctx, to.waba)
	}
	if err != nil {
		return nil, err
	}
	c.cache.Add(to, routed{apps, now.Add(c.lifetime), generation})
	return apps, nil
}
