package storetest

import (
	"sync"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

var grantChecks = []check{
	{"a grant sums up key and app", grantSumsUp},
	{"a grant of an app that lacks everything", grantOfBareApp},
	{"an expired key still has its grant", expiredKeyHasGrant},
	{"a revoked key has no grant", revokedKeyHasNoGrant},
	{"the generation grows with every change", generationGrows},
	{"a grant read during a change is never taken for the new one", generationIsNotAhead},
}

// grant reads a grant without the app's creation time, which is no part of it.
func (f *fixture) grant(d tenant.KeyDigest) *tenant.Grant {
	f.Helper()
	g, err := f.Grant(f.Context(), d)
	f.must(err)
	g.App.CreatedAt = time.Time{}
	return g
}

func grantSumsUp(f *fixture) {
	_, app := f.addApp()
	key := newKey(app.ID, 0)
	f.must(f.CreateKey(f.Context(), key))
	app.CreatedAt = time.Time{}
	want := &tenant.Grant{KeyID: key.ID, ExpiresAt: &key.ExpiresAt, App: app}
	f.wantSame("grant", f.grant(key.Digest), want)
	f.restart()
	f.wantSame("grant after a restart", f.grant(key.Digest), want)

	_, err := f.UpdateApp(f.Context(), app.ID, func(a *tenant.App) error {
		a.PhoneNumberID, a.RateLimit.PerMinute = "222", 99
		return nil
	})
	f.must(err)
	want.App.PhoneNumberID, want.App.RateLimit.PerMinute = "222", 99
	f.wantSame("grant after a change", f.grant(key.Digest), want)
}

func grantOfBareApp(f *fixture) {
	app := tenant.App{ID: newAppID(), CreatedAt: created}
	f.must(f.CreateApp(f.Context(), app))
	key := tenant.APIKey{ID: "key_bare", AppID: app.ID, Digest: tenant.KeyDigest{1}, CreatedAt: created}
	f.must(f.CreateKey(f.Context(), key))
	f.wantSame("grant", f.grant(key.Digest), &tenant.Grant{KeyID: key.ID, App: tenant.App{ID: app.ID}})
}

func expiredKeyHasGrant(f *fixture) {
	_, app := f.addApp()
	key := newKey(app.ID, 0)
	key.ExpiresAt = created.Add(time.Millisecond)
	f.must(f.CreateKey(f.Context(), key))
	g := f.grant(key.Digest)
	if !g.Expired(key.ExpiresAt) || g.Expired(key.ExpiresAt.Add(-time.Millisecond)) {
		f.Errorf("the grant expires at %v, want %v", g.ExpiresAt, key.ExpiresAt)
	}
}

func revokedKeyHasNoGrant(f *fixture) {
	ctx := f.Context()
	_, app := f.addApp()
	key, other := newKey(app.ID, 0), newKey(app.ID, 1)
	f.must(f.CreateKey(ctx, key))
	f.must(f.CreateKey(ctx, other))
	f.grant(key.Digest)

	key.RevokedAt = created.Add(time.Minute)
	f.must(f.RevokeKey(ctx, key.ID, key.RevokedAt))
	f.must(f.RevokeKey(ctx, key.ID, key.RevokedAt.Add(time.Hour)))
	for range 2 { // the second time after a restart
		_, err := f.Grant(ctx, key.Digest)
		f.wantError("Grant of a revoked key", err, store.ErrNotFound)
		f.grant(other.Digest)
		keys, err := f.Keys(ctx, app.ID)
		f.must(err)
		f.wantSame("keys", keys, []tenant.APIKey{key, other})
		f.restart()
	}
}

func generationGrows(f *fixture) {
	ctx := f.Context()
	_, app := f.addApp()
	key := newKey(app.ID, 0)
	f.must(f.CreateKey(ctx, key))
	for _, step := range []struct {
		name   string
		change func() error
	}{
		{"UpdateApp", func() error {
			_, err := f.UpdateApp(ctx, app.ID, func(a *tenant.App) error { a.Name = "new"; return nil })
			return err
		}},
		{"RevokeKey", func() error { return f.RevokeKey(ctx, key.ID, created) }},
	} {
		before := f.Generation()
		f.must(step.change())
		if after := f.Generation(); after <= before {
			f.Errorf("generation %d before %s and %d after", before, step.name, after)
		}
	}
}

// A cache reads the generation, then the grant, and keeps both. If the
// generation grew before the change can be read, the cache would keep what was
// there before the change and take it for what came after.
func generationIsNotAhead(f *fixture) {
	ctx := f.Context()
	_, app := f.addApp()
	key := newKey(app.ID, 0)
	f.must(f.CreateKey(ctx, key))

	type read struct {
		generation uint64
		limit      int
	}
	var reads []read
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			generation := f.Generation()
			g, err := f.Grant(ctx, key.Digest)
			if err != nil {
				f.Error(err)
				return
			}
			if r := (read{generation, g.App.RateLimit.PerSecond}); len(reads) == 0 || reads[len(reads)-1] != r {
				reads = append(reads, r)
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	var grown []uint64 // by update: the generation after it
	for i := range 50 {
		if _, err := f.UpdateApp(ctx, app.ID, func(a *tenant.App) error {
			a.RateLimit.PerSecond = 1_000 + i
			return nil
		}); err != nil {
			f.Error(err)
		}
		grown = append(grown, f.Generation())
	}
	close(done)
	wg.Wait()
	for _, r := range reads {
		next := max(0, r.limit-1_000+1) // the update that made this read out of date
		if next < len(grown) && r.generation >= grown[next] {
			f.Errorf("update %d had grown the generation to %d, at which what was there before could still be read", next, grown[next])
		}
	}
}
