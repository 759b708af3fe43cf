package caddytest

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
)

// revocation is a way in which a key is taken away from three gateways that
// remember it.
type revocation struct {
	name string
	// keyCache is how long they do.
	keyCache time.Duration
	// server are lines of Redis's configuration, url what it is reached at.
	server []string
	url    func(*redistest.Server) string
	// core makes the key one of the Core Service's.
	core bool
	// revoke revokes it.
	revoke func(t *testing.T, r *revoking)
	// deaf means that gateways must have noticed that they are not told.
	deaf bool
}

// revoking is what there is while a key is revoked.
type revoking struct {
	*common
	server   *redistest.Server
	gateways []*gateway
	who      tenant
}

// byCommand revokes the key with the command line.
func byCommand(t *testing.T, r *revoking) { r.gateways[0].run(t, "key", "revoke", r.who.keyID) }

// atCore revokes the key at the Core Service.
func atCore(t *testing.T, r *revoking) {
	if err := r.core.Revoke(r.digest(r.who)); err != nil {
		t.Error(err)
	}
}

var revocations = []revocation{
	{name: "by command", keyCache: time.Hour, revoke: byCommand},
	{
		name: "by command, on a server that lets nobody subscribe", keyCache: 4 * time.Second, revoke: byCommand, deaf: true,
		server: []string{"user gateway on >password ~* resetchannels +@all"},
		url:    func(s *redistest.Server) string { return "redis://gateway:password@" + s.Addr() },
	},
	{name: "at the Core Service", keyCache: 4 * time.Second, core: true, revoke: atCore},
	{
		name: "at the Core Service, which says so", keyCache: time.Hour, core: true,
		revoke: func(t *testing.T, r *revoking) {
			atCore(t, r)
			if _, err := r.server.Command("PUBLISH", "wagw:invalidate", r.digest(r.who).String()); err != nil {
				t.Error(err)
			}
		},
	},
}

func TestARevokedKeyIsRefusedByEveryGateway(t *testing.T) {
	t.Parallel()
	for _, c := range revocations {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := c.start(t)
			if c.deaf {
				for _, g := range r.gateways {
					g.logHas(t, "does not let this user subscribe")
				}
			}
			kept := r.remember(t)
			c.revoke(t, r)
			revoked := time.Now()
			took := r.awaitRefusals(t, revoked, c.keyCache)
			t.Logf("the last of %d gateways refused the key %v after it was revoked; key_cache is %v", len(r.gateways), took, c.keyCache)
			for _, g := range r.gateways {
				g.send(t, r.who.key, g.message(accepted)).want(t, http.StatusUnauthorized, auth001)
				g.send(t, kept, g.message(accepted), "is_fake=true").wantCode(t, "")
			}
		})
	}
}

// start starts all that it takes.
func (c revocation) start(t *testing.T) *revoking {
	t.Helper()
	r := &revoking{server: redistest.Start(t, c.server...)}
	r.common = onRedis(r.server)
	if c.url != nil {
		r.urls = []string{c.url(r.server)}
	}
	if c.core {
		r.startCore(t)
	}
	r.gateways = startGateways(t, 3, settings{common: r.common, app: fmt.Sprintf("key_cache %v", c.keyCache)})
	if c.core {
		r.who = r.coreTenant(t, plenty)
	} else {
		r.who = r.gateways[0].tenant(t, plenty)
	}
	return r
}

// remember has every gateway remember the key that will be revoked, and one that
// will not be, which it returns.
func (r *revoking) remember(t *testing.T) string {
	t.Helper()
	var kept string
	if r.core != nil {
		kept = r.coreTenant(t, plenty).key
	} else {
		_, kept = r.gateways[0].newKey(t, r.who.app)
	}
	for _, key := range []string{kept, r.who.key} {
		for _, g := range r.gateways {
			g.send(t, key, g.message(accepted), "is_fake=true").wantCode(t, "")
		}
	}
	return kept
}

// awaitRefusals waits until every gateway refuses the key, and returns how long
// after the revocation the last one did. A request that began when the time of what
// was remembered was over must be refused.
func (r *revoking) awaitRefusals(t *testing.T, revoked time.Time, keyCache time.Duration) time.Duration {
	t.Helper()
	took := make([]time.Duration, len(r.gateways))
	var waiting sync.WaitGroup
	for i, g := range r.gateways {
		body := g.message(accepted)
		waiting.Go(func() {
			err := poll(t.Context(), func() error {
				began := time.Since(revoked)
				a, err := g.trySend(t, messagePath, r.who.key, body, "is_fake=true")
				took[i] = time.Since(revoked)
				switch {
				case err != nil:
					return err
				case a.status == http.StatusUnauthorized:
					return nil
				case began > keyCache:
					t.Errorf("gateway %d: status %d, %v after the revocation", i+1, a.status, began)
				}
				return errors.New("the key is still taken")
			})
			if err != nil {
				t.Errorf("gateway %d: %v", i+1, err)
			}
		})
	}
	waiting.Wait()
	return slices.Max(took)
}
