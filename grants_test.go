package gateway

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/connexease/caddy-whatsapp-gateway/core/coretest"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// code is what the gateway answers to a key: the code of the failure, or none.
func (s *station) code(key tenant.Key) string {
	r := httptest.NewRequest(http.MethodPost, messagePath, nil)
	r.Header.Set("Authorization", bearer+string(key))
	if f := (&Handler{app: s.App}).authenticate(r, new(send)); f != nil {
		return f.code
	}
	return ""
}

func (s *station) wantCode(key tenant.Key, want string) {
	s.t.Helper()
	if got := s.code(key); got != want {
		s.t.Errorf("answered %q, want %q", got, want)
	}
}

func wantRequests(t *testing.T, core *testCore, route coretest.Route, want int) {
	t.Helper()
	if n := core.Requests(route); n != want {
		t.Errorf("%s was asked %d times, want %d", route, n, want)
	}
}

func TestKeysOfTheCoreServiceAreAskedForOnce(t *testing.T) {
	eachStore(t, func(t *testing.T, s stored) {
		core := newCore(t)
		gateway := newStation(t, s, 1, core)
		known, unknown := core.newKey(t, 0), tenant.NewKey(false)
		for range 3 {
			gateway.wantCode(known, "")
			gateway.wantCode(unknown, "AUTH_001")
		}
		wantRequests(t, core, coretest.Grants, 2)
		if s.redis == nil {
			return
		}
		other := newStation(t, s, 2, core)
		other.wantCode(known, "")
		other.wantCode(unknown, "AUTH_001")
		wantRequests(t, core, coretest.Grants, 2)
	})
}

func TestUnknownKeysAreNotKeptWithoutACoreService(t *testing.T) {
	s := onRedis(t)
	gateway, other := newStation(t, s, 1, nil), newStation(t, s, 2, nil)
	key := tenant.NewKey(false)
	gateway.wantCode(key, "AUTH_001")
	if found, err := other.store.Store.(store.GrantKeeper).FindGrant(t.Context(), digestOf(key)); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("there is %+v, %v", found, err)
	}
}

func TestRecordsOfTheStoreComeBeforeTheCoreService(t *testing.T) {
	eachStore(t, func(t *testing.T, s stored) {
		core := newCore(t)
		gateway := newStation(t, s, 1, core)
		key := gateway.newStoredKey()
		gateway.wantCode(key, "")
		wantRequests(t, core, coretest.Grants, 0)
	})
}

func TestCopyIsBelievedForTheShorterOfBothLifetimes(t *testing.T) {
	s := onRedis(t)
	gateway := newStation(t, s, 1, nil, func(a *App) { a.KeyCache.Lifetime = caddy.Duration(time.Hour) })
	keeper := gateway.store.Store.(store.GrantKeeper)
	for lifetime, most := range map[time.Duration]time.Duration{10 * time.Minute: 10 * time.Minute, 3 * time.Hour: time.Hour} {
		key := tenant.NewKey(false)
		grant := &tenant.Grant{KeyID: "key_1", App: tenant.App{ID: "app_1"}}
		must(t, keeper.KeepGrant(t.Context(), digestOf(key), grant, lifetime))
		g, err := gateway.grants.get(t.Context(), gateway.store.Store, key)
		must(t, err)
		if left := time.Until(g.expires); left > most || left < most-5*time.Minute {
			t.Errorf("a copy for %v is believed for %v", lifetime, left)
		}
	}
}

func TestRevocationReachesTheOtherGateways(t *testing.T) {
	s := onRedis(t)
	gateway, other := newStation(t, s, 1, nil), newStation(t, s, 2, nil)
	key := gateway.newStoredKey()
	gateway.wantCode(key, "")
	other.wantCode(key, "")
	must(t, gateway.store.RevokeKey(t.Context(), "key_own", now()))
	gateway.wantCode(key, "AUTH_001")
	await(t, "the other gateway to refuse", func() bool { return other.code(key) == "AUTH_001" })
}

func TestRevocationAtTheCoreServiceIsHeardOf(t *testing.T) {
	s, core := onRedis(t), newCore(t)
	key := core.newKey(t, 0)
	gateway, other := newStation(t, s, 1, core), newStation(t, s, 2, core)
	gateway.wantCode(key, "")
	other.wantCode(key, "")
	must(t, core.Revoke(digestOf(key)))
	gateway.wantCode(key, "") // nobody has said so yet
	_, err := s.redis.Command("PUBLISH", "wagw:invalidate", digestOf(key).String())
	must(t, err)
	await(t, "both gateways to refuse", func() bool {
		return gateway.code(key) == "AUTH_001" && other.code(key) == "AUTH_001"
	})
}

func TestAnswersWhereTheSourcesFail(t *testing.T) {
	faults := map[string]struct {
		fault                coretest.Fault
		withStore, withoutIt string
	}{
		"there": {coretest.Fault{}, "", ""},
		"down":  {coretest.Down, "AUTH_004", "AUTH_004"},
		"500":   {coretest.Error, "AUTH_004", "AUTH_004"},
		"404":   {coretest.NotFound, "AUTH_001", "AUTH_001"},
		"html":  {coretest.HTML, "AUTH_005", "AUTH_005"},
		"half":  {coretest.HalfJSON, "AUTH_005", "AUTH_005"},
		"hangs": {coretest.Fault{Until: make(chan struct{})}, "AUTH_004", "AUTH_004"},
	}
	core := newCore(t)
	key := core.newKey(t, 0)
	impatient := func(a *App) { a.Core.Timeout = caddy.Duration(200 * time.Millisecond) }
	t.Run("sqlite", func(t *testing.T) {
		for name, f := range faults {
			t.Run(name, func(t *testing.T) {
				gateway := newStation(t, stored{dir: t.TempDir()}, 1, core, impatient)
				core.Set(f.fault)
				gateway.wantCode(key, f.withStore)
			})
		}
	})
	s := onRedis(t)
	number := 0
	t.Run("redis", func(t *testing.T) {
		for name, f := range faults {
			t.Run(name, func(t *testing.T) {
				number++
				gateway := newStation(t, s, number, core, impatient)
				_, err := s.redis.Command("FLUSHALL")
				must(t, err)
				core.Set(f.fault)
				gateway.wantCode(key, f.withStore)
			})
		}
	})
	t.Run("redis away", func(t *testing.T) {
		stations := make(map[string]*station)
		for name := range faults {
			number++
			stations[name] = newStation(t, s, number, core, impatient)
		}
		s.redis.Kill()
		for name, f := range faults {
			core.Set(f.fault)
			if got := stations[name].code(key); got != f.withoutIt {
				t.Errorf("%s: answered %q, want %q", name, got, f.withoutIt)
			}
		}
	})
}

func TestCorruptCopyIsNotLookedBehind(t *testing.T) {
	s, core := onRedis(t), newCore(t)
	key := core.newKey(t, 0)
	gateway := newStation(t, s, 1, core)
	_, err := s.redis.Command("SET", "wagw:grant:"+digestOf(key).String(), `{"key_id":"key_core","app":{"id":`)
	must(t, err)
	gateway.wantCode(key, "AUTH_005")
	wantRequests(t, core, coretest.Grants, 0)
}

func TestStaleGrantIsServedWhileNobodyCanBeAsked(t *testing.T) {
	s, core := onRedis(t), newCore(t)
	key := core.newKey(t, 0)
	soon := time.Now().Add(time.Hour)
	expiring := tenant.NewKey(false)
	must(t, core.PutKey(digestOf(expiring), coretest.Key{ID: "key_expiring", AppID: "app_core", ExpiresAt: &soon}))
	brief := func(stale time.Duration) func(*App) {
		return func(a *App) {
			a.KeyCache.Lifetime = caddy.Duration(time.Nanosecond)
			a.KeyCacheStale = caddy.Duration(stale)
		}
	}
	gateway, strict := newStation(t, s, 1, core, brief(time.Hour)), newStation(t, s, 2, core, brief(0))
	gateway.wantCode(key, "")
	gateway.wantCode(expiring, "")
	strict.wantCode(key, "")
	s.redis.Kill()
	core.Set(coretest.Down)

	before := count(metrics.staleGrants)
	gateway.wantCode(key, "")
	if n := count(metrics.staleGrants) - before; n != 1 {
		t.Errorf("%v stale grants were counted", n)
	}
	strict.wantCode(key, "AUTH_004")
	gateway.wantCode(tenant.NewKey(false), "AUTH_004")

	digest := digestOf(key)
	away := errors.New("away")
	generation := seenOf(gateway.store.Store)
	later := generation
	later.generation++
	if _, err := gateway.grants.stale(digest, generation, away); err != nil {
		t.Errorf("of this generation: %v", err)
	}
	if _, err := gateway.grants.stale(digest, later, away); !errors.Is(err, away) {
		t.Errorf("of another generation: %v", err)
	}
	if _, err := gateway.grants.stale(digest, generation, store.ErrCorrupt); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("instead of a corrupt record: %v", err)
	}
	past := *must1(gateway.grants.stale(digest, generation, away))
	past.expires = time.Now().Add(-2 * time.Hour)
	gateway.grants.setKept(digest, &past)
	if _, err := gateway.grants.stale(digest, generation, away); !errors.Is(err, away) {
		t.Errorf("beyond its time: %v", err)
	}
	g := gateway.grants.kept(digestOf(expiring))
	expired := *g
	grant := *g.Grant
	yesterday := time.Now().Add(-24 * time.Hour)
	grant.ExpiresAt = &yesterday
	expired.Grant = &grant
	gateway.grants.setKept(digestOf(expiring), &expired)
	gateway.wantCode(expiring, "AUTH_001")
}

func TestKeyThatTheStoreKnowsToBeRevokedIsRefusedWithoutTheCoreService(t *testing.T) {
	eachStore(t, func(t *testing.T, s stored) {
		core := newCore(t)
		gateway := newStation(t, s, 1, core, func(a *App) {
			a.KeyCache.Lifetime, a.KeyCacheStale = caddy.Duration(time.Nanosecond), caddy.Duration(time.Hour)
		})
		key := gateway.newStoredKey()
		gateway.wantCode(key, "")
		core.Set(coretest.Down)
		must(t, gateway.store.RevokeKey(t.Context(), "key_own", now()))
		// As if nobody had told of the revocation.
		digest := digestOf(key)
		g := gateway.grants.kept(digest)
		unaware := *g
		unaware.generation = gateway.store.Generation()
		gateway.grants.setKept(digest, &unaware)
		gateway.wantCode(key, "AUTH_001")
		gateway.wantCode(key, "AUTH_001")
		wantRequests(t, core, coretest.Grants, 0)
	})
}

func TestOutageIsNotWaitedForByEveryRequestWithAStaleGrant(t *testing.T) {
	core := newCore(t)
	key := core.newKey(t, 0)
	gateway := newStation(t, stored{dir: t.TempDir()}, 1, core, func(a *App) {
		a.KeyCache.Lifetime, a.KeyCacheStale = caddy.Duration(time.Nanosecond), caddy.Duration(time.Hour)
	})
	gateway.wantCode(key, "")
	core.Set(coretest.Down)
	gateway.wantCode(key, "")
	digest := digestOf(key)
	g := gateway.grants.kept(digest)
	if !g.askAgain.After(g.expires) || g.askAgain.After(time.Now().Add(staleRetry)) {
		t.Errorf("its time was over %v ago, and it is looked up again in %v", time.Since(g.expires), time.Until(g.askAgain))
	}
}

// must1 is for what a test has shown to work before.
func must1[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// vigilant is a directory that says when it has last looked for changes.
type vigilant struct {
	*watchedDirectory
	at time.Time
}

func (d *vigilant) Watched() time.Time { return d.at }

// kept is what a cache has of a grant, and setKept changes it.
func (c *grantCache) kept(digest tenant.KeyDigest) *openedGrant {
	k, ok := c.known.peek(digest)
	if !ok {
		return nil
	}
	return k.unpack(c.epoch)
}

func (c *grantCache) setKept(digest tenant.KeyDigest, g *openedGrant) {
	c.known.add(digest, packGrant(g, c.epoch))
}

// outlive has what a cache holds of a key be over its time for two hours.
func (c *grantCache) outlive(t *testing.T, key tenant.Key) {
	t.Helper()
	digest := c.pepper.Digest(key)
	over := time.Now().Add(-2 * time.Hour)
	if g := c.kept(digest); g != nil {
		old := *g
		old.expires, old.askAgain = over, over
		c.setKept(digest, &old)
		return
	}
	g, ok := c.unknown.peek(digest)
	if !ok {
		t.Fatal("nothing is kept of the key")
	}
	old := *g
	old.expires, old.askAgain = over, over
	c.unknown.add(digest, &old)
}

func TestRecordsAreBelievedForALifetimeAfterTheLastLookForChanges(t *testing.T) {
	d, cache, known, id := newWatched(t, time.Hour)
	v := &vigilant{watchedDirectory: d}
	unknown := tenant.NewKey(false)
	wantLookUps := func(when string, want int64) {
		t.Helper()
		before := d.lookUps.Load()
		_, err := cache.get(t.Context(), v, known)
		_, unknownErr := cache.get(t.Context(), v, unknown)
		if err != nil || !errors.Is(unknownErr, store.ErrNotFound) {
			t.Errorf("%s: %v, %v", when, err, unknownErr)
		}
		if n := d.lookUps.Load() - before; n != want {
			t.Errorf("%s: %d look-ups, want %d", when, n, want)
		}
		cache.outlive(t, known)
		cache.outlive(t, unknown)
	}
	wantLookUps("at first", 2)
	v.at = time.Now()
	wantLookUps("looked just now", 0)
	v.at = time.Now().Add(-59 * time.Minute)
	wantLookUps("looked within the lifetime", 0)
	v.at = time.Now().Add(-61 * time.Minute)
	wantLookUps("looked before the lifetime", 2)
	v.at = time.Now()
	must(t, d.CreateApp(t.Context(), tenant.App{ID: "app_2", CreatedAt: time.Now()}))
	wantLookUps("something has changed", 2)
	must(t, d.RevokeKey(t.Context(), id, time.Now()))
	if _, err := cache.get(t.Context(), v, known); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("revoked: %v", err)
	}
}

func TestTheStoreWatchesOverNoGrantsOfTheCoreService(t *testing.T) {
	core := newCore(t)
	gateway := newStation(t, stored{dir: t.TempDir()}, 1, core, func(a *App) { a.KeyCache.Lifetime = caddy.Duration(time.Hour) })
	key, unknown, own := core.newKey(t, 0), tenant.NewKey(false), gateway.newStoredKey()
	for _, want := range []int{2, 4} {
		gateway.wantCode(key, "")
		gateway.wantCode(unknown, "AUTH_001")
		gateway.wantCode(own, "")
		wantRequests(t, core, coretest.Grants, want)
		for _, k := range []tenant.Key{key, unknown, own} {
			gateway.grants.outlive(t, k)
		}
	}
	if _, ok := gateway.store.Store.(watcher); !ok {
		t.Error("the store does not watch")
	}
}
