package delivery

import (
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

func TestProbeThatFoundNothingIsMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &faulty{Store: openStore(t, nil)}
		var status atomic.Int64
		status.Store(http.StatusInternalServerError)
		b := newInbox(func(*http.Request) int { return int(status.Load()) })
		addApp(t, s.Store, "app_1", tenant.Webhook{URL: "http://endpoint.test"})
		receive(t, s.Store, "app_1", 100)
		w := steady(Config{Retry: []time.Duration{time.Second, time.Second, time.Second}}, s)
		defer overWire(w, b)()
		defer run(t, w)()
		elapse(20 * time.Second)
		s.claim.Store(true)
		elapse(2 * maxPause)
		s.claim.Store(false)
		status.Store(http.StatusOK)
		elapse(3 * maxPause)
		if rest := left(t, s.Store); len(rest) > 0 {
			t.Errorf("%d events are left", len(rest))
		}
	})
}

func TestEndpointThatBreaksWhileSlotsAreWaitedForGetsOneAttempt(t *testing.T) {
	s := openStore(t, nil)
	const url = "http://endpoint.test"
	addApp(t, s, "app_1", tenant.Webhook{URL: url})
	receive(t, s, "app_1", 10)
	w := steady(Config{}, s)
	e := &endpoint{app: "app_1", batch: 10}
	round := turn{worker: w, endpoint: e}
	if !round.take(t.Context()) || round.slots != 10 {
		t.Fatalf("%d slots", round.slots)
	}
	for range breakAfter {
		past := time.Now().Add(-time.Hour)
		e.breaker.ask(url, past)
		e.breaker.failed(url, openPassage, past)
	}
	claimed, _, err := w.claim(t.Context(), &round)
	if err != nil || len(claimed) != 1 || round.slots != 1 || round.passed != probePassage {
		t.Errorf("claimed %d for %d slots, %v", len(claimed), round.slots, err)
	}
}

func TestBrokenEndpointIsLeftForANewOneAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openStore(t, nil)
		b := newInbox(func(r *http.Request) int {
			if r.Host == "new.test" {
				return http.StatusOK
			}
			return http.StatusInternalServerError
		})
		addApp(t, s, "app_1", tenant.Webhook{URL: "http://old.test"})
		receive(t, s, "app_1", 100)
		w := steady(Config{Retry: []time.Duration{time.Hour}}, s)
		defer overWire(w, b)()
		defer run(t, w)()
		elapse(40 * time.Second) // a pause of half a minute has begun
		_, attempted, _ := b.tally()
		setURL(t, s, "app_1", "http://new.test")
		elapse(3 * time.Second)
		if rest := left(t, s); len(rest) != attempted {
			t.Errorf("%d events are left, %d were attempted before", len(rest), attempted)
		}
	})
}

func TestMendedEndpointGetsTheRestAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openStore(t, nil)
		var status atomic.Int64
		status.Store(http.StatusInternalServerError)
		b := newInbox(func(*http.Request) int {
			<-time.After(100 * time.Millisecond) // when the runner has gone
			return int(status.Load())
		})
		addApp(t, s, "app_1", tenant.Webhook{URL: "http://endpoint.test"})
		receive(t, s, "app_1", 100)
		w := steady(Config{Retry: []time.Duration{time.Hour}}, s)
		w.interval = time.Minute
		defer overWire(w, b)()
		defer run(t, w)()
		elapse(30 * time.Second)
		_, attempted, _ := b.tally()
		status.Store(http.StatusOK)
		elapse(35 * time.Second) // with the second look-over
		if rest := left(t, s); len(rest) != attempted {
			t.Errorf("%d events are left, %d were attempted before", len(rest), attempted)
		}
	})
}

func TestBrokenEndpointsTogetherTakeAPartOfTheSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openStore(t, nil)
		b := newInbox(func(*http.Request) int {
			<-time.After(18 * time.Second)
			return http.StatusInternalServerError
		})
		for _, app := range []tenant.AppID{"app_1", "app_2", "app_3", "app_4", "app_5", "app_6", "app_7", "app_8"} {
			addApp(t, s, app, tenant.Webhook{URL: "http://endpoint.test"})
			receive(t, s, app, 40)
		}
		w := steady(Config{Concurrency: 8, Timeout: 20 * time.Second, Retry: []time.Duration{time.Hour}}, s)
		defer overWire(w, b)()
		defer run(t, w)()
		elapse(5 * time.Minute) // all are broken by now
		before, _, _ := b.tally()
		elapse(5 * time.Minute)
		if after, _, most := b.tally(); most != 8/probeShare || after == before {
			t.Errorf("%d at a time, %d attempts", most, after-before)
		}
	})
}

func TestDeadEndpointCostsOneAttemptAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openStore(t, nil)
		var healthy atomic.Bool
		b := newInbox(func(*http.Request) int {
			if healthy.Load() {
				return http.StatusOK
			}
			return http.StatusInternalServerError
		})
		addApp(t, s, "app_1", tenant.Webhook{URL: "http://endpoint.test"})
		ids := receive(t, s, "app_1", 200)
		w := steady(Config{Retry: []time.Duration{time.Minute, time.Minute}}, s)
		defer overWire(w, b)()
		stop := run(t, w)
		elapse(90 * time.Second)
		broken, _, _ := b.tally()
		// Ten to break it, the others that were under way, and one after 1, 2, 4,
		// 8, 16 and 30 s, each of these a fifth shorter or longer.
		if broken < breakAfter+5 || broken > breakAfter+DefaultPerEndpoint+8 {
			t.Errorf("%d attempts in 90 s", broken)
		}
		attempts := 0
		for _, e := range left(t, s) {
			attempts += e.Attempts
		}
		if attempts != broken {
			t.Errorf("%d requests count as %d attempts", broken, attempts)
		}
		healthy.Store(true)
		elapse(3 * time.Minute)
		stop()
		if rest := left(t, s); len(rest) > 0 || len(b.arrived) != len(ids) {
			t.Errorf("%d events are left", len(rest))
		}
		if b.requests != broken+len(ids) {
			t.Errorf("%d requests after it was healthy again", b.requests-broken)
		}
	})
}

func TestBacklogOfADeadEndpointDoesNotGrowForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openStore(t, nil)
		b := newInbox(always(http.StatusInternalServerError))
		addApp(t, s, "app_1", tenant.Webhook{URL: "http://endpoint.test"})
		receive(t, s, "app_1", 200)
		c := Config{Retry: []time.Duration{10 * time.Second, time.Minute}, Timeout: time.Second}
		w := steady(c, s)
		defer overWire(w, b)()
		defer run(t, w)()
		elapse(w.config.lifetime() - time.Second)
		for _, e := range left(t, s) {
			if e.State == store.Dead && e.Attempts <= len(c.Retry) {
				t.Errorf("given up too soon: %+v", e)
			}
		}
		late := receive(t, s, "app_1", 1)
		elapse(maxPause + maxPause/2)
		if attempts, _, _ := b.tally(); attempts > 50 {
			t.Errorf("%d attempts", attempts)
		}
		for _, e := range left(t, s) {
			if pending := e.State == store.Pending; pending != (e.ID == late[0]) {
				t.Errorf("%+v", e)
			}
		}
	})
}
