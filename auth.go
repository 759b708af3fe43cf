package gateway

import (
	"context"
	"encoding/binary"
	"errors"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/connexease/caddy-whatsapp-gateway/deadline"
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
	epoch   time.Time // of what is kept
	known   *recent[tenant.KeyDigest, keptGrant]
	unknown *recent[tenant.KeyDigest, *openedGrant]
	lookUps singleflight.Group
	// lookUpTimes are those of look-ups in the store, of lookUpTimeout.
	lookUpTimes *deadline.Shared
}

// cacheLifetimes say how long what was looked up is believed: a grant, that a key is
// unknown, and after its time a grant that cannot be looked up.
type cacheLifetimes struct{ lifetime, negativeLifetime, staleLifetime time.Duration }

// openedGrant is a grant with its access token opened, or nothing but the fact
// that there is none. One that comes from the cache has no more of the app than a send needs.
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
	// watched is how long it is believed behind the directory's last look for changes;
	// 0: those would not tell of its own.
	watched time.Duration
}

func newGrantCache(pepper *tenant.Pepper, ring *seal.Ring, core *coreService, lifetimes cacheLifetimes) *grantCache {
	return &grantCache{
		pepper: pepper, ring: ring, core: core, cacheLifetimes: lifetimes,
		epoch: time.Now(), known: newRecent[tenant.KeyDigest, keptGrant](maxGrants), unknown: newRecent[tenant.KeyDigest, *openedGrant](maxUnknown),
		lookUpTimes: deadline.New(lookUpTimeout),
	}
}

// get returns the grant of key. Errors are those of [store.Directory.Grant]. What
// the directory can do beyond that is found out here, so it must not be wrapped.
func (c *grantCache) get(ctx context.Context, directory store.Directory, key tenant.Key) (*openedGrant, error) {
	digest := c.pepper.Digest(key)
	// What a look-up finds while the directory changes is out of date from the start.
	seen := seenOf(directory)
	now := time.Now()
	fresh := func(g *openedGrant) bool {
		return g.generation == seen.generation && (now.Before(g.askAgain) || now.Before(seen.believed(g)))
	}
	if kept, ok := c.known.get(digest); ok {
		if g := kept.unpack(c.epoch); fresh(g) {
			return g, nil
		}
	}
	if g, ok := c.unknown.get(digest); ok && fresh(g) {
		return nil, store.ErrNotFound
	}
	return c.wait(ctx, directory, digest, seen)
}

// wait waits for a look-up, and makes it where nobody does yet: on its own goroutine, whose stack has grown with
// earlier requests. A look-up is everybody's who waits, so nobody's going away ends it; it has a time of its own, and is worth
// having even for somebody who has gone.
func (c *grantCache) wait(ctx context.Context, directory store.Directory, digest tenant.KeyDigest, seen seen) (*openedGrant, error) {
	// One that began before the directory changed is not joined.
	lookUp := string(binary.BigEndian.AppendUint64(digest[:], seen.generation))
	found, err, _ := c.lookUps.Do(lookUp, func() (any, error) {
		return c.lookUp(context.WithoutCancel(ctx), directory, digest, seen)
	})
	g, _ := found.(*openedGrant)
	return g, err
}

// lookUp finds a grant and remembers it. What is seen was so before.
func (c *grantCache) lookUp(ctx context.Context, directory store.Directory, digest tenant.KeyDigest, seen seen) (*openedGrant, error) {
	f, err := c.find(ctx, directory, digest)
	if err != nil {
		return c.stale(digest, seen, err)
	}
	g := &openedGrant{Grant: f.grant, expires: f.until, askAgain: f.until, generation: seen.generation}
	if f.watched {
		g.watched = c.lifetimeOf(f.grant)
	}
	if f.grant == nil {
		c.known.remove(digest)
		c.unknown.add(digest, g)
		return nil, store.ErrNotFound
	}
	if token, refusal := openCredentials(c.ring, &g.App); refusal != nil {
		g.refusal = refusal
	} else {
		g.authorization = bearer + token
		g.token = g.authorization[len(bearer):]
	}
	c.unknown.remove(digest)
	c.known.add(digest, packGrant(g, c.epoch))
	return g, nil
}
