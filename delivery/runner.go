package delivery

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// targetAge is for how long the record of an app is believed, changed or not: a
// store may learn of changes late.
const targetAge = time.Second

// target is an app's webhook as it was read from the store.
type target struct {
	// hook is nil where there is nowhere to deliver to; why says the reason.
	hook       *tenant.Webhook
	why        string
	read       time.Time // zero: never
	generation uint64
}

// current tells whether the directory is still as it was when the target was read.
func (t *target) current(generation uint64) bool {
	return !t.read.IsZero() && t.generation == generation
}

// Why an app's events cannot be delivered, or will not be any more.
const (
	whyNoApp    = "the app does not exist any more"
	whyNoURL    = "the app has no webhook URL"
	whyDisabled = "the endpoint answered that it is gone (410)"
	whyLate     = "the endpoint has been failing for the whole schedule"
)

// step makes one round of a runner: slots, claims, attempts. It returns whether
// there is to be another one.
func (w *Worker) step(ctx context.Context, e *endpoint) bool {
	if w.resting(e) {
		return false
	}
	if e.breaker.strained() {
		e.batch = 1
		if !wait(ctx, strainPause) {
			return false
		}
	}
	t := turn{worker: w, endpoint: e}
	defer t.end()
	if !t.take(ctx) {
		return false
	}
	claimed, next, err := w.claim(ctx, &t)
	if err != nil {
		t.end()
		w.troubles.log(w.logger, "claiming events failed", err)
		pause(ctx)
		return ctx.Err() == nil
	}
	full := len(claimed) == t.slots
	t.begin(ctx, claimed)
	if full {
		e.batch = min(2*e.batch, w.config.PerEndpoint)
	}
	if next.IsZero() || ctx.Err() != nil {
		return false
	}
	if next.After(time.Now()) {
		w.wakeAt(e, next)
		return false
	}
	return len(claimed) > 0 // a store whose clock is behind has nothing yet
}

// claim reads the app's record and claims events for the slots of a turn. Of an
// app that is not to get any it claims none and buries them.
func (w *Worker) claim(ctx context.Context, t *turn) (claimed []store.Claimed, next time.Time, err error) {
	// The end of the worker does not end this: what a store has claimed for
	// nobody would have to wait for its lease.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	e := t.endpoint
	if err := w.refresh(ctx, e); err != nil {
		return nil, next, err
	}
	if e.target.hook == nil {
		return nil, next, w.bury(ctx, e.app, e.target.read, e.target.why)
	}
	t.hook = e.target.hook
	if t.passed = e.breaker.ask(t.hook.URL, time.Now()); t.passed == closedPassage {
		return nil, next, nil
	}
	if t.passed == probePassage {
		t.keep(1)
	}
	t.until = time.Now().Add(w.lease())
	return w.store.Claim(ctx, e.app, t.slots, w.lease())
}

// lease is how long a claim lasts: it covers one attempt, with room before and
// behind it.
func (w *Worker) lease() time.Duration { return 2*w.config.Timeout + leaseMargin }

// refresh reads the target of an app unless it is known to be as it was.
func (w *Worker) refresh(ctx context.Context, e *endpoint) error {
	now, generation := time.Now(), w.store.Generation()
	if e.target.current(generation) && now.Sub(e.target.read) < targetAge {
		return nil
	}
	app, err := w.store.App(ctx, e.app)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	t := target{read: now, generation: generation}
	switch {
	case err != nil:
		t.why = whyNoApp
	case app.Webhook == nil || app.Webhook.URL == "":
		t.why = whyNoURL
	case app.Webhook.DisabledAt != nil:
		t.why = whyDisabled
	default:
		t.hook = app.Webhook
	}
	e.target = t
	return nil
}

// bury makes dead letters of what an app had received before.
func (w *Worker) bury(ctx context.Context, app tenant.AppID, before time.Time, why string) error {
	n, err := w.store.Bury(ctx, app, before, why)
	if n > 0 {
		w.observe(Outcome{Result: store.GivenUp, Events: n})
		w.logger.Warn("gave up events without an attempt",
			zap.String("app_id", string(app)), zap.Int("count", n), zap.String("reason", why))
	}
	return err
}

// turn is what a runner has in hand for one round.
type turn struct {
	worker   *Worker
	endpoint *endpoint
	slots    int
	probe    bool // it has a slot of the broken endpoints
	passed   passage
	hook     *tenant.Webhook
	until    time.Time // when the claims run out, by this machine's clock
}

// take waits for slots. It returns false once ctx is done.
func (t *turn) take(ctx context.Context) bool {
	w, e := t.worker, t.endpoint
	most := e.batch
	if e.breaker.broken() {
		if t.probe = w.probes.acquire(ctx, &e.probe, 1) == 1; !t.probe {
			return false
		}
		most = 1
	}
	t.slots = w.slots.acquire(ctx, &e.slots, most)
	return t.slots > 0
}

// keep gives back all slots but n.
func (t *turn) keep(n int) {
	if t.slots > n {
		t.worker.slots.release(&t.endpoint.slots, t.slots-n)
		t.slots = n
	}
}

// begin begins an attempt for each event. A slot goes with it, and what there is
// for a probe: then there is only one.
func (t *turn) begin(ctx context.Context, claimed []store.Claimed) {
	for _, c := range claimed {
		a := attempt{
			worker: t.worker, endpoint: t.endpoint, hook: t.hook, until: t.until, claimed: c,
			passed: t.passed, probe: t.probe,
		}
		t.slots--
		t.passed, t.probe = openPassage, false
		t.worker.tasks.Go(func() { a.run(ctx) })
	}
}

// end gives back what did not go into attempts.
func (t *turn) end() {
	if t.passed == probePassage {
		t.endpoint.breaker.spared(t.hook.URL)
		t.passed = openPassage
	}
	t.keep(0)
	if t.probe {
		t.worker.probes.release(&t.endpoint.probe, 1)
		t.probe = false
	}
}
