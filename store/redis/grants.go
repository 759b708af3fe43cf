package redis

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// A copy of a grant is the document of the grant, or one of these.
const (
	// unknownCopy says that there is no such key.
	unknownCopy = "null"
	// tombstone says that what was read earlier is out of date. While it lies there, no
	// look-up that began before the change can put its result in that place.
	tombstone = `"invalidated"`
)

// tombstoneLifetime is longer than any look-up takes.
const tombstoneLifetime = 10 * time.Second

// forever is the lifetime of a copy that has none, because somebody else has put
// it there: whoever reads it has bounds of its own.
const forever = time.Duration(math.MaxInt64)

func (s *Store) grantKey(digest string) string { return s.key("grant:" + digest) }

// KeptGrant implements [store.GrantKeeper].
func (s *Store) KeptGrant(ctx context.Context, digest tenant.KeyDigest) (*tenant.Grant, time.Duration, error) {
	began := time.Now()
	key := s.grantKey(digest.String())
	var document string
	var left time.Duration
	err := s.try(ctx, func(ctx context.Context) error {
		pipe := s.client.Pipeline()
		// The lifetime is asked first: should another copy appear in between, it is a
		// newer one, which may well be believed a little shorter.
		lifetime, copied := pipe.PTTL(ctx, key), pipe.Get(ctx, key)
		execute(ctx, pipe)
		var err error
		if left, err = lifetime.Result(); err != nil {
			return err
		}
		document, err = copied.Result()
		return err
	})
	if err != nil {
		return nil, 0, recordError(err)
	}
	// The lifetime is from some moment since the beginning.
	switch left {
	case noLifetime:
		left = forever
	case noKey: // it has appeared since
		return nil, 0, store.ErrNotFound
	default:
		left -= time.Since(began)
	}
	if left <= 0 || document == tombstone {
		return nil, 0, store.ErrNotFound
	}
	if document == unknownCopy {
		return nil, left, nil
	}
	g, err := tenant.ParseGrant([]byte(document))
	if err != nil {
		return nil, 0, fmt.Errorf("%w: copy of a grant: %w", store.ErrCorrupt, err)
	}
	return g, left, nil
}

// What PTTL answers instead of a lifetime, as go-redis passes it on.
const (
	noLifetime = time.Duration(-1)
	noKey      = time.Duration(-2)
)

var keepScript = newScript(header, "scripts/keep.lua")

// KeepGrant implements [store.GrantKeeper]. It asks for Redis's time first, so that
// the copy ends when it has to, whenever it arrives.
func (s *Store) KeepGrant(ctx context.Context, digest tenant.KeyDigest, g *tenant.Grant, lifetime time.Duration) error {
	ctx, until := s.asOne(ctx), time.Now().Add(lifetime)
	document := unknownCopy
	if g != nil {
		document = string(g.Document())
	}
	key := []string{s.grantKey(digest.String())}
	replies, err := s.onKeys(ctx, keepScript, key, "", "")
	if err != nil {
		return err
	}
	text, _ := replies[0].(string)
	now, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return unexpected(replies[0])
	}
	// Redis's clock has gone on since.
	_, err = s.onKeys(ctx, keepScript, key, document, now+time.Until(until).Microseconds())
	return err
}
