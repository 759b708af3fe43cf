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
	s.grant, err = h.app.grants.get(r.Context(), h.app.store, key)
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
	maxGrants  = 100_000
	maxUnknown = 10_000
	// lookUpTimeout bounds one look-up.
	lookUpTimeout = 5 * time.Second
)

// grantCache remembers grants, and keys that are unknown. Many requests with a
// key that it does not know wait for one look-up.
type grantCache struct {
	pepper                     *tenant.Pepper
	ring                       *seal.Ring
	lifetime, negativeLifetime time.Duration
	known, unknown             *lru.Cache[tenant.KeyDigest, *openedGrant]
	lookUps                    singleflight.Group
}

// openedGrant is a grant with its access token opened, or nothing but the fact
// that there is none.
type openedGrant struct {
	*tenant.Grant
	// token is Meta's access token in the clear, unless refusal says why not.
	token   string
	refusal *failure

	expires    time.Time
	generation uint64
}

func newGrantCache(pepper *tenant.Pepper, ring *seal.Ring, lifetime, negativeLifetime time.Duration) *grantCache {
	c := &grantCache{pepper: pepper, ring: ring, lifetime: lifetime, negativeLifetime: negativeLifetime}
	// An error means a size that is not positive.
	c.known, _ = lru.New[tenant.KeyDigest, *openedGrant](maxGrants)
	c.unknown, _ = lru.New[tenant.KeyDigest, *openedGrant](maxUnknown)
	return c
}

// get returns the grant of key. Errors are those of [store.Directory.Grant].
func (c *grantCache) get(ctx context.Context, directory store.Directory, key tenant.Key) (*openedGrant, error) {
	digest := c.pepper.Digest(key)
	// The generation is read before the look-up: what a look-up finds while the
	// directory changes is then out of date from the start.
	generation := directory.Generation()
	now := time.Now()
	fresh := func(g *openedGrant) bool { return g.generation == generation && now.Before(g.expires) }
	if g, ok := c.known.Get(digest); ok && fresh(g) {
		return g, nil
	}
	if g, ok := c.unknown.Get(digest); ok && fresh(g) {
		return nil, store.ErrNotFound
	}
	// The look-up is everybody's who waits, so nobody's going away ends it. One that
	// began before the directory changed is not joined.
	lookUp := string(binary.BigEndian.AppendUint64(digest[:], generation))
	result := c.lookUps.DoChan(lookUp, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookUpTimeout)
		defer cancel()
		return c.lookUp(ctx, directory, digest, generation)
	})
	select {
	case r := <-result:
		g, _ := r.Val.(*openedGrant)
		return g, r.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// lookUp asks the directory, whose generation was read before.
func (c *grantCache) lookUp(ctx context.Context, directory store.Directory, digest tenant.KeyDigest, generation uint64) (*openedGrant, error) {
	g := &openedGrant{generation: generation}
	var err error
	g.Grant, err = directory.Grant(ctx, digest)
	switch {
	case errors.Is(err, store.ErrNotFound):
		c.known.Remove(digest)
		g.expires = time.Now().Add(c.negativeLifetime)
		c.unknown.Add(digest, g)
		return nil, err
	case err != nil:
		return nil, err
	}
	g.token, g.refusal = openCredentials(c.ring, &g.App)
	g.expires = time.Now().Add(c.lifetime)
	c.unknown.Remove(digest)
	c.known.Add(digest, g)
	return g, nil
}
