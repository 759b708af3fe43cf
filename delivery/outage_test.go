package delivery

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/sqlite"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// These tests run in a bubble where time passes at once when nothing happens.
// Network and store are in the memory of the process and in a file: neither waits
// for anything outside of it.

var errOutage = errors.New("disk on fire")

// faulty is a store that fails on demand.
type faulty struct {
	*sqlite.Store
	backlog, claim, settle, app atomic.Bool
	// around, where it is set, is called in place of Claim.
	around func(ctx context.Context, claim func() ([]store.Claimed, time.Time, error)) ([]store.Claimed, time.Time, error)
}

func (f *faulty) Backlog(ctx context.Context) (map[tenant.AppID]time.Time, error) {
	if f.backlog.Load() {
		return nil, errOutage
	}
	return f.Store.Backlog(ctx)
}

func (f *faulty) Claim(ctx context.Context, app tenant.AppID, most int, lease time.Duration) ([]store.Claimed, time.Time, error) {
	if f.claim.Load() {
		return nil, time.Time{}, errOutage
	}
	claim := func() ([]store.Claimed, time.Time, error) { return f.Store.Claim(ctx, app, most, lease) }
	if f.around != nil {
		return f.around(ctx, claim)
	}
	return claim()
}

func (f *faulty) Settle(ctx context.Context, c store.Claimed, a store.Attempt) error {
	if f.settle.Load() {
		return errOutage
	}
	return f.Store.Settle(ctx, c, a)
}

// SettleDelivered implements [store.AttemptSettler].
func (f *faulty) SettleDelivered(c store.Claimed, done func(error)) {
	if f.settle.Load() {
		done(errOutage)
		return
	}
	f.Store.SettleDelivered(c, done)
}

// bothWays runs a test with a worker that waits for outcomes, and with one that does not.
func bothWays(t *testing.T, test func(t *testing.T, worker func(Config, Store) *Worker)) {
	t.Run("waiting", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			test(t, func(c Config, s Store) *Worker {
				w := steady(c, s)
				w.behind = nil
				return w
			})
		})
	})
	t.Run("behind", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { test(t, steady) })
	})
}

func (f *faulty) App(ctx context.Context, id tenant.AppID) (tenant.App, error) {
	if f.app.Load() {
		return tenant.App{}, errOutage
	}
	return f.Store.App(ctx, id)
}

// steady is a worker of a bubble, with the usual intervals: what happens often
// takes time to pass by.
func steady(c Config, s Store) *Worker {
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	w := quick(c, s, nil)
	w.interval = pollInterval
	return w
}

// elapse returns when so much of the bubble's time has passed, and what was due is done.
func elapse(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestStoreOutageLosesNothing(t *testing.T) {
	for name, fault := range map[string]func(*faulty) *atomic.Bool{
		"backlog": func(f *faulty) *atomic.Bool { return &f.backlog },
		"claim":   func(f *faulty) *atomic.Bool { return &f.claim },
		"app":     func(f *faulty) *atomic.Bool { return &f.app },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &faulty{Store: openStore(t, nil)}
				fails := fault(s)
				fails.Store(true)
				b := newInbox(always(http.StatusOK))
				addApp(t, s.Store, "app_1", tenant.Webhook{URL: "http://endpoint.test"})
				ids := receive(t, s.Store, "app_1", 20)
				core, logs := observer.New(zap.DebugLevel)
				w := steady(Config{}, s)
				w.logger = zap.New(core)
				defer overWire(w, b)()
				defer run(t, w)()
				w.Wake("app_1")
				elapse(25 * time.Second)
				if n := logs.Len(); n < 2 || n > 3 {
					t.Errorf("%d entries within 25 s", n)
				}
				fails.Store(false)
				b.waitFor(t, ids)
			})
		})
	}
}

func TestOutcomesThatCannotBeRecordedAreNotForgotten(t *testing.T) {
	bothWays(t, func(t *testing.T, worker func(Config, Store) *Worker) {
		s := &faulty{Store: openStore(t, nil)}
		s.settle.Store(true)
		b := newInbox(always(http.StatusOK))
		addApp(t, s.Store, "app_1", tenant.Webhook{URL: "http://endpoint.test"})
		ids := receive(t, s.Store, "app_1", 100)
		w := worker(Config{}, s)
		defer overWire(w, b)()
		stop := run(t, w)
		elapse(3 * w.lease()) // all claims run out meanwhile
		s.settle.Store(false)
		b.waitFor(t, ids)
		stop()
		for id, times := range b.arrived {
			if times != 1 {
				t.Errorf("%s was delivered %d times", id, times)
			}
		}
		if rest := left(t, s.Store); len(rest) > 0 {
			t.Errorf("%d events are left", len(rest))
		}
	})
}

func TestRunEndsWhileTheStoreFails(t *testing.T) {
	bothWays(t, func(t *testing.T, worker func(Config, Store) *Worker) {
		s := &faulty{Store: openStore(t, nil)}
		s.settle.Store(true)
		b := newInbox(always(http.StatusOK))
		addApp(t, s.Store, "app_1", tenant.Webhook{URL: "http://endpoint.test"})
		ids := receive(t, s.Store, "app_1", 1)
		w := worker(Config{}, s)
		defer overWire(w, b)()
		stop := run(t, w)
		b.waitFor(t, ids)
		began := time.Now()
		stop()
		if took := time.Since(began); took > w.config.Timeout+2*storeTimeout {
			t.Errorf("it took %v", took)
		}
	})
}

// slowly is a store that says when it has taken an outcome when it is told to.
type slowly struct {
	*sqlite.Store
	taken chan func()
}

func (s slowly) SettleDelivered(c store.Claimed, done func(error)) {
	s.Store.SettleDelivered(c, func(err error) { s.taken <- func() { done(err) } })
}

func TestAnOutcomeTakesUpItsSlotUntilItIsDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := slowly{openStore(t, nil), make(chan func(), 10)}
		b := newInbox(always(http.StatusOK))
		addApp(t, s.Store, "app_1", tenant.Webhook{URL: "http://endpoint.test"})
		receive(t, s.Store, "app_1", 5)
		w := steady(Config{PerEndpoint: 2}, s)
		defer overWire(w, b)()
		ended := make(chan struct{})
		ctx, end := context.WithCancel(t.Context())
		go func() {
			defer close(ended)
			w.Run(ctx)
		}()
		elapse(10 * time.Second)
		if len(s.taken) != 2 || b.requests != 2 {
			t.Errorf("%d attempts, and %d outcomes that are not durable", b.requests, len(s.taken))
		}
		(<-s.taken)()
		elapse(10 * time.Second)
		if b.requests != 3 {
			t.Errorf("%d attempts, want a third", b.requests)
		}
		end()
		elapse(time.Minute)
		select {
		case <-ended:
			t.Error("the worker has ended before its outcomes are durable")
		default:
		}
		for range 2 {
			(<-s.taken)()
		}
		<-ended
	})
}

func TestClaimsAreGivenBackAtTheEnd(t *testing.T) {
	s := &faulty{Store: openStore(t, nil)}
	b := newInbox(always(http.StatusOK))
	addApp(t, s.Store, "app_1", tenant.Webhook{URL: serve(t, b)})
	receive(t, s.Store, "app_1", 10)
	ctx, end := context.WithCancel(t.Context())
	s.around = func(ctx context.Context, claim func() ([]store.Claimed, time.Time, error)) ([]store.Claimed, time.Time, error) {
		end()
		if ctx.Err() != nil {
			t.Error("the end of the worker ends a claim")
		}
		return claim()
	}
	quick(Config{}, s, nil).Run(ctx)
	if b.requests > 0 {
		t.Errorf("%d attempts were begun", b.requests)
	}
	if claimed, _, err := s.Store.Claim(t.Context(), "app_1", 10, time.Minute); err != nil || len(claimed) != 10 || claimed[0].Attempts != 0 {
		t.Errorf("%d can be claimed, %v", len(claimed), err)
	}
}

func TestNewsThatComeWithTheLastClaimAreNotMissed(t *testing.T) {
	s := &faulty{Store: openStore(t, nil)}
	b := newInbox(always(http.StatusOK))
	addApp(t, s.Store, "app_1", tenant.Webhook{URL: serve(t, b)})
	ids := receive(t, s.Store, "app_1", 1)
	w := quick(Config{}, s, nil)
	w.interval = time.Hour
	rounds := 0
	s.around = func(_ context.Context, claim func() ([]store.Claimed, time.Time, error)) ([]store.Claimed, time.Time, error) {
		claimed, next, err := claim()
		if rounds++; rounds == 1 {
			ids = append(ids, receive(t, s.Store, "app_1", 1)...)
			w.Wake("app_1")
		}
		return claimed, next, err
	}
	run(t, w)
	b.wait(t, "both arrived", func() bool { return len(b.arrived) == 2 })
}

func TestStoreWithAnotherClockIsNotAskedAllTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &faulty{Store: openStore(t, nil)}
		var asked atomic.Int64
		s.around = func(context.Context, func() ([]store.Claimed, time.Time, error)) ([]store.Claimed, time.Time, error) {
			asked.Add(1)
			return nil, time.Now().Add(-time.Second), nil
		}
		b := newInbox(always(http.StatusOK))
		addApp(t, s.Store, "app_1", tenant.Webhook{URL: "http://endpoint.test"})
		receive(t, s.Store, "app_1", 1)
		w := steady(Config{}, s)
		defer overWire(w, b)()
		defer run(t, w)()
		elapse(30 * time.Second)
		if n := asked.Load(); n > 35 {
			t.Errorf("asked %d times in 30 s", n)
		}
	})
}

func TestClaimThatComesLateIsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &faulty{Store: openStore(t, nil)}
		var status atomic.Int64
		status.Store(http.StatusInternalServerError)
		b := newInbox(func(*http.Request) int { return int(status.Load()) })
		addApp(t, s.Store, "app_1", tenant.Webhook{URL: "http://endpoint.test"})
		receive(t, s.Store, "app_1", 100)
		w := steady(Config{Retry: []time.Duration{time.Second, time.Second, time.Second}}, s)
		var delay atomic.Int64
		s.around = func(_ context.Context, claim func() ([]store.Claimed, time.Time, error)) ([]store.Claimed, time.Time, error) {
			claimed, next, err := claim()
			<-time.After(time.Duration(delay.Load()))
			return claimed, next, err
		}
		defer overWire(w, b)()
		defer run(t, w)()
		elapse(20 * time.Second) // only probes are made by now
		status.Store(http.StatusOK)
		delay.Store(int64(w.lease() - w.config.Timeout))
		elapse(w.lease())
		before, _, _ := b.tally()
		elapse(3 * w.lease())
		if after, _, _ := b.tally(); after != before {
			t.Errorf("%d attempts with claims that were about to run out", after-before)
		}
		delay.Store(0)
		elapse(5 * w.lease())
		if rest := left(t, s.Store); len(rest) > 0 {
			t.Errorf("%d events are left", len(rest))
		}
	})
}

// None of them waits for the next look over the outbox, or for another's turn.
func TestRetriesOfManyEventsComeWhenTheyAreDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openStore(t, nil)
		times := make(map[string][]time.Time)
		b := newInbox(nil)
		b.answer = func(r *http.Request) int {
			b.mu.Lock()
			defer b.mu.Unlock()
			id := r.Header.Get("webhook-id")
			times[id] = append(times[id], time.Now())
			return http.StatusServiceUnavailable
		}
		addApp(t, s, "app_1", tenant.Webhook{URL: "http://endpoint.test"})
		receive(t, s, "app_1", 40)
		retry := []time.Duration{5 * time.Second, 20 * time.Second}
		w := steady(Config{Retry: retry}, s)
		w.patience = breakPatience
		defer overWire(w, b)()
		defer run(t, w)()
		elapse(40 * time.Second)
		for id, at := range times {
			if len(at) != len(retry)+1 {
				t.Fatalf("%d attempts of %s", len(at), id)
			}
			for i, delay := range retry {
				// Those that fail at the same time are attempted one after the other.
				if got := at[i+1].Sub(at[i]); got < delay*8/10 || got > delay*12/10+40*strainPause {
					t.Errorf("%v after attempt %d, want about %v", got, i+1, delay)
				}
			}
		}
	})
}

func TestScheduleIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openStore(t, nil)
		retry := []time.Duration{5 * time.Second, 30 * time.Second, 2 * time.Minute}
		var times []time.Time
		b := newInbox(nil)
		b.answer = func(*http.Request) int {
			b.mu.Lock()
			defer b.mu.Unlock()
			times = append(times, time.Now())
			return http.StatusServiceUnavailable
		}
		addApp(t, s, "app_1", tenant.Webhook{URL: "http://endpoint.test"})
		receive(t, s, "app_1", 1)
		w := steady(Config{Retry: retry}, s)
		defer overWire(w, b)()
		stop := run(t, w)
		elapse(w.config.lifetime() + time.Minute)
		stop()
		if len(times) != len(retry)+1 {
			t.Fatalf("%d attempts", len(times))
		}
		for i, delay := range retry {
			got := times[i+1].Sub(times[i])
			if got < delay*8/10 || got > delay*12/10+2*minPollInterval {
				t.Errorf("%v after attempt %d, want about %v", got, i+1, delay)
			}
		}
		if e := left(t, s)[0]; e.State != store.Dead || e.Attempts != len(times) {
			t.Errorf("%+v", e)
		}
	})
}
