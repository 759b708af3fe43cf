// Package delivery brings the events of the outbox to the apps' endpoints: one
// POST each, signed as Standard Webhooks has it, again and again by a schedule
// until the endpoint takes it or the last attempt has failed.
//
// Every app with something due has a runner, which claims events as it gets
// slots and begins an attempt for each. Slots go to whoever has the fewest, so
// that a slow endpoint delays no other, and a breaker makes a dead one cost one
// attempt in a while. Nothing is kept in memory that the store does not know:
// what was claimed by a worker that is no more is claimed again.
//
// Endpoints are https and public, unless the configuration says otherwise:
// every address is looked at right before it is dialled. Redirects are not
// followed.
package delivery

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// Store is what a worker needs of a [store.Store]. One that is a [store.AttemptSettler] as
// well is not waited for where an event was delivered.
type Store interface {
	store.Outbox

	App(context.Context, tenant.AppID) (tenant.App, error)
	UpdateApp(ctx context.Context, id tenant.AppID, change func(*tenant.App) error) (tenant.App, error)
	Generation() uint64
}

// Outcome is what became of an attempt, or of events that had none, for those
// who count.
type Outcome struct {
	// Result is one of [store.Delivered], [store.Failed] and [store.GivenUp].
	Result store.AttemptResult
	// Events is how many events had it: one, or those that were buried.
	Events int
	// Duration is how long the attempt took. It is zero for what was buried.
	Duration time.Duration
}

const (
	// pollInterval is how often the outbox is looked over for what is due, and
	// minPollInterval how often where something is about to be; a look-over that
	// takes long comes less often, so as to take at most one part in pollShare of
	// the time, up to maxPollInterval.
	pollInterval    = time.Second
	minPollInterval = 20 * time.Millisecond
	pollShare       = 20
	maxPollInterval = 10 * time.Second
	// storeTimeout bounds one operation of the store's.
	storeTimeout = 5 * time.Second
	// leaseMargin is how much longer than two attempts a claim lasts: for the
	// store to hand it out, and to be told the outcome.
	leaseMargin = 2 * storeTimeout
	// probeShare is the part of all slots that broken endpoints may have together.
	probeShare = 4
)

// Worker delivers events. It is made with [New] and works while [Worker.Run] runs.
type Worker struct {
	config    Config
	store     Store
	behind    store.AttemptSettler // the store as one; nil where it is none
	logger    *zap.Logger
	observe   func(Outcome)
	dialer    *dialer
	transport *http.Transport
	slots     *slots
	probes    *slots
	troubles  trouble
	interval  time.Duration // pollInterval, but for tests
	patience  time.Duration // breakPatience, but for tests
	lag       atomic.Int64  // see [Worker.Lag]

	// tasks are the runners and the attempts.
	tasks sync.WaitGroup

	mu sync.Mutex
	// working ends with Run; it is nil before and after.
	working   context.Context
	nextPoll  time.Time
	endpoints map[tenant.AppID]*endpoint
}

// endpoint is what a worker knows of an app that has something to be delivered.
type endpoint struct {
	app     tenant.AppID
	breaker breaker
	slots   share
	probe   share
	// unsettled are the outcomes that the store has not taken yet. Without them,
	// events would be claimed again that have been delivered.
	unsettled atomic.Int64

	// Guarded by the worker's lock:
	running bool      // it has a runner
	woken   bool      // there is news for the runner
	overdue time.Time // when to look for events that are too old
	alarm   time.Time // when it is woken by itself

	// The runner's, and seen by the next one:
	target target
	batch  int // how many events to ask for
}

// New returns a worker for a valid configuration. observe is called with every
// outcome, by many goroutines at a time; nil means nobody is interested.
func New(c Config, s Store, logger *zap.Logger, observe func(Outcome)) *Worker {
	c = c.withDefaults()
	if observe == nil {
		observe = func(Outcome) {}
	}
	d := newDialer(c)
	behind, _ := s.(store.AttemptSettler)
	return &Worker{
		config: c, store: s, behind: behind, logger: logger, observe: observe,
		dialer: d, transport: newTransport(c, d),
		slots:     newSlots(c.Concurrency, c.PerEndpoint),
		probes:    newSlots(max(1, c.Concurrency/probeShare), 1),
		interval:  pollInterval,
		patience:  breakPatience,
		endpoints: make(map[tenant.AppID]*endpoint),
	}
}

// Run delivers until ctx is done. Then it begins no new attempt, gives back
// what it has claimed, waits for the attempts under way and until their outcomes
// are in the store, and closes all connections. It is called once.
func (w *Worker) Run(ctx context.Context) {
	w.mu.Lock()
	w.working = ctx
	w.mu.Unlock()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for working := true; working; {
		select {
		case <-timer.C:
			d := w.poll(ctx)
			w.mu.Lock()
			w.nextPoll = time.Now().Add(d)
			w.mu.Unlock()
			timer.Reset(d)
		case <-ctx.Done():
			working = false
		}
	}
	w.mu.Lock()
	w.working = nil // no task is begun any more but by a task
	w.mu.Unlock()
	w.tasks.Wait()
	w.transport.CloseIdleConnections()
	w.dialer.closeAll()
}

// Wake says that these apps have new events. It does not block. Without it they
// are found as soon as the outbox is looked over.
func (w *Worker) Wake(apps ...tenant.AppID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.working == nil {
		return
	}
	for _, app := range apps {
		w.start(app)
	}
}

// wakeAt wakes an app for an event that is due before the outbox is looked over
// for it.
func (w *Worker) wakeAt(e *endpoint, due time.Time) {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if due.After(w.nextPoll) || e.alarm.After(now) && !due.Before(e.alarm) {
		return
	}
	e.alarm = due
	time.AfterFunc(max(due.Sub(now), time.Millisecond), func() { w.Wake(e.app) })
}

// poll starts a runner for every app that has something due and returns when to
// look again.
func (w *Worker) poll(ctx context.Context) time.Duration {
	began := time.Now()
	limited, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	backlog, err := w.store.Backlog(limited)
	if err != nil {
		if ctx.Err() == nil {
			w.troubles.log(w.logger, "looking over the outbox failed", err)
		}
		return jitter(w.interval)
	}
	now := time.Now()
	interval := w.interval
	var lag time.Duration
	defer func() { w.lag.Store(int64(lag)) }()
	w.mu.Lock()
	defer w.mu.Unlock()
	for app, due := range backlog {
		if e := w.endpoints[app]; e == nil || !e.breaker.broken() {
			lag = max(lag, now.Sub(due))
		}
		if due.After(now) {
			interval = min(interval, max(due.Sub(now), minPollInterval))
		} else {
			w.start(app)
		}
	}
	for app, e := range w.endpoints {
		if _, pending := backlog[app]; !pending && !e.running && w.slots.heldBy(&e.slots) == 0 {
			delete(w.endpoints, app)
		}
	}
	return max(interval, min(pollShare*now.Sub(began), maxPollInterval))
}

// Lag is for how long the longest due event had been waiting when the outbox
// was last looked over, but for those of endpoints that keep failing.
func (w *Worker) Lag() time.Duration { return time.Duration(w.lag.Load()) }

// start gives an app a runner, or news to the one it has. One that is to be left
// alone for now gets none. It needs the lock.
func (w *Worker) start(app tenant.AppID) {
	e := w.endpoints[app]
	if e == nil {
		e = &endpoint{app: app, breaker: breaker{patience: w.patience}}
		w.endpoints[app] = e
	}
	if e.running {
		e.woken = true
		return
	}
	if w.resting(e) {
		return
	}
	e.running, e.batch = true, 1
	ctx := w.working
	w.tasks.Go(func() { w.runner(ctx, e) })
}

// resting tells whether nothing is to be done for an app for now. What was
// changed since its URL was read may be that.
func (w *Worker) resting(e *endpoint) bool {
	return e.unsettled.Load() > 0 || e.breaker.paused(time.Now()) && e.target.current(w.store.Generation())
}

// runner claims and delivers what an app has due, until there is no more.
func (w *Worker) runner(ctx context.Context, e *endpoint) {
	for {
		for w.step(ctx, e) {
		}
		w.mu.Lock()
		if !e.woken || ctx.Err() != nil {
			e.running = false
			w.mu.Unlock()
			return
		}
		e.woken = false
		w.mu.Unlock()
	}
}

// pause waits for about a second before the store is asked again, or for ctx.
func pause(ctx context.Context) { wait(ctx, time.Second/2+rand.N(time.Second)) }

// wait waits for d, and returns false where ctx is done sooner.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
