package gateway

import (
	"context"
	"encoding/binary"
	"errors"
	"net/http"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/connexease/caddy-whatsapp-gateway/seal"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// bearer is the scheme of the Authorization header, exactly as published.
const bearer = "Bearer "

// authenticate turns the Authorization header into a grant.
func (h *Handler) authenticate(r *http.Request, s *send) *failure {
	values := r.Header["Authorization"]
	if len(values) == 0 {
		return keyMissing.as(nil)
	}
	token, ok := strings.CutPrefix(values[0], bearer)
	if !ok || len(values) > 1 || token == "" || strings.ContainsFunc(token, notVisibleASCII) {
		return keyMalformed.as(nil)
	}
	key, err := tenant.ParseKey(token)
	if err != nil {
		return keyUnknown.as(nil)
	}
	s.grant, err = h.app.grants.get(r.Context(), h.app.store.Store, key)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return keyUnknown.as(nil)
	case errors.Is(err, store.ErrCorrupt):
		return grantCorrupt.as(err)
	case err != nil:
		return authFailed.as(err)
	case s.grant.Expired(time.Now()):
		return keyUnknown.as(nil)
	}
	s.key = key
	return nil
}

func notVisibleASCII(c rune) bool { return c <= ' ' || c > '~' }

const (
	// maxGrants and maxUnknown bound the cache. Unknown keys are kept apart so
	// that guesses do not drive out what is in use.
	maxGrants  = 250_000
	maxUnknown = 10_000
	// lookUpTimeout bounds one look-up in the store.
	lookUpTimeout = 5 * time.Second
)

// grantCache remembers grants, and keys that are unknown. Many requests with a
// key that it does not know wait for one look-up, which [grantCache.find] makes.
type grantCache struct {
	pepper *tenant.Pepper
	ring   *seal.Ring
	core   *coreService // nil: there is none
	cacheLifetimes
	known, unknown *lru.Cache[tenant.KeyDigest, *openedGrant]
	lookUps        singleflight.Group
}

// cacheLifetimes say how long what was looked up is believed: a grant, that a key is
// unknown, and after its time a grant that cannot be looked up.
type cacheLifetimes struct{ lifetime, negativeLifetime, staleLifetime time.Duration }

// openedGrant is a grant with its access token opened, or nothing but the fact
// that there is none.
type openedGrant struct {
	*tenant.Grant
	// authorization is the header with Meta's access token in the clear, and token
	// the part of it that is that, unless refusal says why not.
	authorization, token string
	refusal              *failure

	// expires is when its time is over, askAgain when it is looked up again: the
	// same, but for a grant that was served stale.
	expires, askAgain time.Time
	generation        uint64
}

func newGrantCache(pepper *tenant.Pepper, ring *seal.Ring, core *coreService, lifetimes cacheLifetimes) *grantCache {
	c := &grantCache{pepper: pepper, ring: ring, core: core, cacheLifetimes: lifetimes}
	// An error means a size that is not positive.
	c.known, _ = lru.New[tenant.KeyDigest, *openedGrant](maxGrants)
	c.unknown, _ = lru.New[tenant.KeyDigest, *openedGrant](maxUnknown)
	return c
}

// get returns the grant of key. Errors are those of [store.Directory.Grant]. What
// the directory can do beyond that is found out here, so it must not be wrapped.
func (c *grantCache) get(ctx context.Context, directory store.Directory, key tenant.Key) (*openedGrant, error) {
	digest := c.pepper.Digest(key)
	// The generation is read before the look-up: what a look-up finds while the
	// directory changes is then out of date from the start.
	generation := directory.Generation()
	now := time.Now()
	fresh := func(g *openedGrant) bool { return g.generation == generation && now.Before(g.askAgain) }
	if g, ok := c.known.Get(digest); ok && fresh(g) {
		return g, nil
	}
	if g, ok := c.unknown.Get(digest); ok && fresh(g) {
		return nil, store.ErrNotFound
	}
	return c.wait(ctx, directory, digest, generation)
}

// wait waits for a look-up.
func (c *grantCache) wait(ctx context.Context, directory store.Directory, digest tenant.KeyDigest, generation uint64) (*openedGrant, error) {
	// The look-up is everybody's who waits, so nobody's going away ends it. One that
	// began before the directory changed is not joined.
	lookUp := string(binary.BigEndian.AppendUint64(digest[:], generation))
	result := c.lookUps.DoChan(lookUp, func() (any, error) {
		return c.lookUp(context.WithoutCancel(ctx), directory, digest, generation)
	})
	select {
	case r := <-result:
		g, _ := r.Val.(*openedGrant)
		return g, r.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// lookUp finds a grant and remembers it. The directory's generation was read before.
func (c *grantCache) lookUp(ctx context.Context, directory store.Directory, digest tenant.KeyDigest, generation uint64) (*openedGrant, error) {
	f, err := c.find(ctx, directory, digest)
	if err != nil {
		return c.stale(digest, generation, err)
	}
	g := &openedGrant{Grant: f.grant, expires: f.until, askAgain: f.until, generation: generation}
	if g.Grant == nil {
		c.known.Remove(digest)
		c.unknown.Add(digest, g)
		return nil, store.ErrNotFound
	}
	if token, refusal := openCredentials(c.ring, &g.App); refusal != nil {
		g.refusal = refusal
	} else {
		g.authorization = bearer + token
		g.token = g.authorization[len(bearer):]
	}
	c.unknown.Remove(digest)
	c.known.Add(digest, g)
	return g, nil
}
