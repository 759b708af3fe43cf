package redis

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// Whoever changes what a key may do says so on a channel: the key's digest, or
// anything else for "some keys". It makes every gateway forget at once what it
// would have believed for a while longer; nothing depends on it being heard.

// everyKey is what is said of a change that concerns more than one key.
const everyKey = "*"

func (s *Store) channel() string { return s.key("invalidate") }

// invalidate puts tombstones in the place of the copies of these digests, and
// tells every gateway what to forget. The generation grows after the
// tombstones: a look-up that sees the new one finds no copy of the old record.
func (s *Store) invalidate(ctx context.Context, message string, digests ...string) error {
	err := s.bury(ctx, digests)
	s.generation.Add(1) // whatever happens, the record has changed
	if err != nil {
		return err
	}
	err = s.try(ctx, func(ctx context.Context) error { return s.client.Publish(ctx, s.channel(), message).Err() })
	if err != nil {
		s.log().Warn("gateways were not told of a change and hear of it when their key_cache runs out", zap.Error(err))
	}
	return nil
}

// bury puts tombstones in the place of copies.
func (s *Store) bury(ctx context.Context, digests []string) error {
	for first := 0; first < len(digests); first += batch {
		var keys []string
		for _, digest := range digests[first:min(first+batch, len(digests))] {
			keys = append(keys, s.grantKey(digest))
		}
		if _, err := s.onKeys(ctx, tombstoneScript, keys, tombstone, tombstoneLifetime.Milliseconds()); err != nil {
			return err
		}
	}
	return nil
}

// invalidateApp does so for all keys of an app.
func (s *Store) invalidateApp(ctx context.Context, app tenant.AppID) error {
	digests, err := s.digestsOf(ctx, app)
	if err != nil {
		s.generation.Add(1)
		return err
	}
	return s.invalidate(ctx, everyKey, digests...)
}

const (
	// silence is how long the channel may be silent before the server is asked for
	// a sign of life, which it then has as long again to give.
	silence = 3 * time.Second
	// minSubscribeDelay and maxSubscribeDelay bound the growing delay between
	// attempts to subscribe.
	minSubscribeDelay = 50 * time.Millisecond
	maxSubscribeDelay = 2 * time.Second
)

// subscribe listens until the store is closed. The store runs it in the background
// where it serves.
func (s *Store) subscribe() {
	refused := false // and said so, once: not at the start, when there is no logger yet
	for delay := minSubscribeDelay; ; delay = min(2*delay, maxSubscribeDelay) {
		subscribed, err := s.listen()
		if s.closing.Err() != nil {
			return
		}
		s.log().Debug("lost the subscription to changes of keys", zap.Error(err))
		if hasCode(err, []string{"NOPERM"}) && delay == maxSubscribeDelay && !refused {
			refused = true
			s.log().Warn("redis does not let this user subscribe to changes of keys: they are seen when key_cache runs out",
				zap.String("channel", s.channel()))
		}
		if subscribed {
			delay = minSubscribeDelay
		}
		if !s.wait(delay) {
			return
		}
	}
}

var errSilent = errors.New("the server gives no sign of life")

// listen listens on one connection until it breaks, and tells whether it was
// subscribed at all. Reading has no time limit, because one that runs out within a
// message would lose the rest of it: the connection is closed instead.
func (s *Store) listen() (subscribed bool, err error) {
	channel := s.client.Subscribe(s.closing) // it does not connect yet
	defer channel.Close()
	defer context.AfterFunc(s.closing, func() { channel.Close() })()
	if err := channel.Subscribe(s.closing, s.channel()); err != nil {
		return false, err
	}
	var heard, silent atomic.Bool
	done := make(chan struct{})
	watched := make(chan struct{})
	defer func() { close(done); <-watched }()
	go func() {
		defer close(watched)
		ticker := time.NewTicker(silence)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
			case <-done:
				return
			}
			// The answer to the last ping has been heard by now, if there is one.
			if !heard.Swap(false) || channel.Ping(s.closing) != nil {
				silent.Store(true)
				channel.Close()
				return
			}
		}
	}()
	for {
		message, err := channel.Receive(s.closing)
		if err != nil {
			if silent.Load() {
				err = errSilent
			}
			return subscribed, err
		}
		heard.Store(true)
		switch m := message.(type) {
		case *goredis.Subscription: // what was said before may have been missed
			subscribed = true
			s.generation.Add(1)
		case *goredis.Message:
			s.heard(m.Payload)
		}
	}
}

// heard forgets what a message says. The Core Service only says it: the copies
// that lie in Redis are the gateways' own, and theirs to bury.
func (s *Store) heard(message string) {
	defer s.generation.Add(1)
	digest, err := tenant.ParseKeyDigest(message)
	if err != nil {
		return
	}
	if err := s.bury(s.closing, []string{digest.String()}); err != nil && s.closing.Err() == nil {
		s.log().Warn("the copy of a grant that has changed stays until its lifetime ends", zap.Error(err))
	}
}
