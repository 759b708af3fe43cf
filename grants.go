package gateway

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// watcher is a directory that looks by itself whether its records have changed.
type watcher interface {
	// Watched is a time for which it is known that whatever had been changed in the
	// records by then, by whomever, has grown the Generation. It does no I/O.
	Watched() time.Time
}

// seen is how far a directory is known to be up to date.
type seen struct {
	generation uint64
	watched    time.Time // zero where it does not watch
}

// seenOf is read before what it is to tell of. So is its time before its generation: what
// has the generation was read when all that had changed by that time was there.
func seenOf(directory store.Directory) (s seen) {
	if w, ok := directory.(watcher); ok {
		s.watched = w.Watched()
	}
	s.generation = directory.Generation()
	return s
}

// believed is until when a grant of this generation is. A record that has not changed by
// some time is as good as one that was read then.
func (s seen) believed(g *openedGrant) time.Time {
	if until := s.watched.Add(g.watched); g.watched > 0 && until.After(g.expires) {
		return until
	}
	return g.expires
}

// found is what a look-up of a key has found out.
type found struct {
	grant *tenant.Grant // nil: the key is unknown
	// until is when it has to be looked up again: a lifetime after its source
	// was read, however many have passed it on since.
	until time.Time
	// watched: it is the directory's own record, or that there is none.
	watched bool
}

// found is what was read at this time.
func (c *grantCache) found(grant *tenant.Grant, read time.Time) found {
	return found{grant: grant, until: read.Add(c.lifetimeOf(grant))}
}

// lifetimeOf is how long a grant is believed, or that there is none.
func (c *grantCache) lifetimeOf(grant *tenant.Grant) time.Duration {
	if grant == nil {
		return c.negativeLifetime
	}
	return c.lifetime
}

// find looks a key up: in the copies that all gateways on the store share, then
// in the store's records, then at the Core Service. An error is [store.ErrCorrupt], or
// means that who had to be asked is away.
func (c *grantCache) find(ctx context.Context, directory store.Directory, digest tenant.KeyDigest) (found, error) {
	f, err := c.findInStore(directory, digest)
	unknown := errors.Is(err, store.ErrNotFound)
	switch {
	case err == nil, errors.Is(err, store.ErrCorrupt):
		return f, err
	case errors.Is(err, store.ErrRevoked), c.core == nil && unknown:
		f := c.found(nil, time.Now())
		f.watched = true
		return f, nil
	case c.core == nil:
		return found{}, err
	}
	read := time.Now()
	grant, coreErr := c.core.Grant(ctx, digest)
	switch {
	case errors.Is(coreErr, store.ErrNotFound):
		grant = nil
	case coreErr != nil && !unknown:
		return found{}, fmt.Errorf("%w; store: %w", coreErr, err)
	case coreErr != nil:
		return found{}, coreErr
	}
	f = c.found(grant, read)
	if unknown { // and the store is there
		c.keep(ctx, directory, digest, f)
	}
	return f, nil
}

// findInStore asks the store. [store.ErrNotFound] means that it does not know.
func (c *grantCache) findInStore(directory store.Directory, digest tenant.KeyDigest) (found, error) {
	ctx := c.lookUpTimes.Next()
	read := time.Now()
	var there store.FoundGrant
	var err error
	if keeper, ok := directory.(store.GrantKeeper); ok {
		there, err = keeper.FindGrant(ctx, digest)
	} else {
		there.Grant, err = directory.Grant(ctx, digest)
	}
	if err != nil {
		return found{}, err
	}
	f := c.found(there.Grant, read)
	if there.Copied {
		if until := read.Add(there.Left); until.Before(f.until) {
			f.until = until
		}
		return f, nil
	}
	f.watched = true
	c.keep(ctx, directory, digest, f)
	return f, nil
}

// keep leaves a copy for the other gateways, if the store can. That they have to
// look for themselves without one is no reason to fail.
func (c *grantCache) keep(ctx context.Context, directory store.Directory, digest tenant.KeyDigest, f found) {
	keeper, ok := directory.(store.GrantKeeper)
	lifetime := time.Until(f.until)
	if !ok || lifetime <= 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lookUpTimeout)
	defer cancel()
	_ = keeper.KeepGrant(ctx, digest, f.grant, lifetime)
}

// staleRetry is how soon after a look-up that failed the next one is made for a
// key whose grant is served nevertheless.
const staleRetry = time.Second

// stale returns a grant whose time is over, if it may be served while it cannot be
// looked up, and otherwise err. One that was looked up before the directory
// changed is not served: the change may have been its revocation.
func (c *grantCache) stale(digest tenant.KeyDigest, seen seen, err error) (*openedGrant, error) {
	kept, ok := c.known.peek(digest)
	if !ok {
		return nil, err
	}
	g := kept.unpack(c.epoch)
	if errors.Is(err, store.ErrCorrupt) || g.generation != seen.generation {
		return nil, err
	}
	now, end := time.Now(), seen.believed(g).Add(c.staleLifetime)
	if !now.Before(end) {
		return nil, err
	}
	metrics.staleGrants.Inc()
	again := *g
	again.askAgain = now.Add(staleRetry)
	if end.Before(again.askAgain) {
		again.askAgain = end
	}
	c.known.add(digest, packGrant(&again, c.epoch))
	return &again, nil
}
