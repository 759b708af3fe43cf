package redis

import (
	"sync"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
	"github.com/connexease/caddy-whatsapp-gateway/store/storetest"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// admitAll has every store admit so often at once, and returns how many were.
func admitAll(t testing.TB, a func() store.Admission, each int, stores ...*Store) int {
	t.Helper()
	var all sync.WaitGroup
	var mu sync.Mutex
	admitted := 0
	for _, s := range stores {
		all.Go(func() {
			for range each {
				d, err := s.Admit(t.Context(), a())
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if d.Verdict == store.Admitted {
					admitted++
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return admitted
}

// An app has one pair of windows, whoever pays.
func TestAnAppThatChangesItsAccountIsNeverOverItsLimit(t *testing.T) {
	t.Parallel()
	const limit = 20
	server := redistest.Start(t, "appendfsync no")
	clock := storetest.NewClock()
	o := testOptions(t, "single", "", server.URL())
	o.Clock = clock.Now
	first := newBooks(t, o)
	second := first.neighbour(false, 1_000*testFee)
	o.Serving = false
	stores := []*Store{open(t, o), open(t, o), open(t, o)}
	of := func(b *books) func() store.Admission {
		return func() store.Admission {
			a := b.admission()
			a.App, a.Limits = first.app, tenant.RateLimit{PerSecond: 1000, PerMinute: limit}
			return a
		}
	}
	// Within a minute it sends for the first account, then for the second.
	n := admitAll(t, of(first), 2, stores...)
	clock.Advance(30 * time.Second)
	if n += admitAll(t, of(second), limit, stores...); n != limit {
		t.Errorf("%d were admitted within a minute, want %d", n, limit)
	}
	clock.Advance(30*time.Second + time.Microsecond)
	if n := admitAll(t, of(second), limit, stores...); n != 6 {
		t.Errorf("%d were admitted when the first account's were out of the window, want 6", n)
	}
	first.wantHolds(0, 0, 6)
	second.wantHolds(0, 0, limit)
}

// To take one out of the windows again could make room for one too many, when it is
// made again or comes late.
func TestAnAdmissionThatProvesUnpaidStaysInTheWindows(t *testing.T) {
	t.Parallel()
	const limit = 4
	server := redistest.Start(t, "appendfsync no")
	clock := storetest.NewClock()
	o := testOptions(t, "single", "", server.URL())
	o.Clock = clock.Now
	first := newBooks(t, o)
	second := first.neighbour(false, testFee)
	o.Serving = false
	s := open(t, o)
	limits := tenant.RateLimit{PerSecond: 1000, PerMinute: limit}
	first.hold(s) // the app's home is with the first account
	clock.Advance(time.Hour)
	a := second.admission()
	a.App, a.Limits = first.app, limits
	rival := second.admission()
	rival.App = second.app
	// Both windows and money are looked at, then the windows counted, and the money is taken last.
	s.client.AddHook(&meddler{before: map[int]func(){4: func() {
		if d, err := second.Admit(t.Context(), rival); err != nil || d.Verdict != store.Admitted {
			t.Errorf("the rival is answered %+v, %v", d, err)
		}
	}}})
	if d, err := s.Admit(t.Context(), a); err != nil || d.Verdict != store.NoBalance {
		t.Errorf("who comes too late is answered %+v, %v", d, err)
	}
	if state := second.state(a.HoldID); state != "" {
		t.Errorf("its hold is %q", state)
	}
	again := func() store.Admission {
		a := first.admission()
		a.Limits = limits
		return a
	}
	if n := admitAll(t, again, limit, s); n != limit-1 {
		t.Errorf("%d more were admitted, want %d", n, limit-1)
	}
	clock.Advance(time.Minute + time.Microsecond)
	if n := admitAll(t, again, 2*limit, s); n != limit {
		t.Errorf("%d were admitted in the next minute, want %d", n, limit)
	}
	second.wantHolds(0, 0, 1)
}

// An app's place outlasts its windows as long as it sends, whichever gateway it sends through.
func TestUseRenewsAnAppsPlace(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "appendfsync no")
	o := testOptions(t, "single", "", server.URL())
	b := newBooks(t, o)
	o.Serving = false
	s := open(t, o)
	b.hold(s)
	key := b.key("home:" + string(b.app))
	command(t, server, "EXPIRE", key, 100)
	s.homes.cache.Purge() // a day is over
	b.hold(s)
	if left, _ := command(t, server, "TTL", key).(int64); left < int64(homeCacheLifetime.Seconds()) {
		t.Errorf("it is forgotten in %d s, before the gateway looks again", left)
	}
}
