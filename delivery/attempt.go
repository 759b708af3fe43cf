package delivery

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// attempt is one claimed event on its way, with the slot that it takes up.
type attempt struct {
	worker   *Worker
	endpoint *endpoint
	hook     *tenant.Webhook
	claimed  store.Claimed
	until    time.Time // when the claim runs out, by this machine's clock
	passed   passage
	probe    bool // it has a slot of the broken endpoints
}

// run makes the attempt and sees to it that its outcome is known to the store.
// Where the worker is ending, or the claim would not last, none is made.
func (a *attempt) run(ctx context.Context) {
	w := a.worker
	if ctx.Err() != nil || time.Until(a.until) <= w.config.Timeout {
		if a.passed == probePassage {
			a.endpoint.breaker.spared(a.hook.URL)
		}
		a.release()
		a.trySettle(ctx, store.Attempt{Result: store.Returned}) // otherwise it runs out
		return
	}
	began := time.Now()
	failed := w.post(a.hook, &a.claimed.Event)
	took := time.Since(began)
	mended := a.note(failed)
	outcome := a.judge(ctx, failed)
	a.report(outcome, took)
	if outcome.Result == store.Delivered && w.behind != nil {
		a.settleBehind(ctx, mended)
		return
	}
	settled := a.trySettle(ctx, outcome)
	a.told(settled, mended)
	if outcome.Result == store.Failed {
		w.wakeAt(a.endpoint, outcome.NextAttemptAt)
	}
	if !settled {
		a.settle(ctx, outcome)
	}
	if failed != nil && a.passed == probePassage {
		w.buryOverdue(ctx, a.endpoint)
	}
}

// told gives back the slots once the store was told of the outcome: not before a gone
// endpoint is disabled, because the next one would go there, too; and not before the store
// knows, which so bounds what it does not know.
func (a *attempt) told(settled, mended bool) {
	if !settled {
		a.endpoint.unsettled.Add(1)
	}
	a.release()
	if mended {
		a.worker.Wake(a.endpoint.app)
	}
}

// settleBehind tells the store of an event that was delivered, and leaves it to the store
// to say when that is durable: nobody waits for it.
func (a *attempt) settleBehind(ctx context.Context, mended bool) {
	w := a.worker
	w.tasks.Add(1)
	w.behind.SettleDelivered(a.claimed, func(err error) {
		defer w.tasks.Done()
		a.told(err == nil, mended)
		if err != nil {
			w.troubles.log(w.logger, settlingFailed, err)
			w.tasks.Go(func() { a.settle(ctx, store.Attempt{Result: store.Delivered}) })
		}
	})
}

// note tells the breaker. It returns whether this lets everything through again.
func (a *attempt) note(failed *failure) (mended bool) {
	b, app := &a.endpoint.breaker, zap.String("app_id", string(a.endpoint.app))
	if failed != nil {
		if b.failed(a.hook.URL, a.passed, time.Now()) {
			a.worker.logger.Warn("an endpoint keeps failing and gets one event at a time", app, zap.String("error", failed.reason))
		}
		return false
	}
	if mended = b.succeeded(a.hook.URL); mended {
		a.worker.logger.Warn("an endpoint takes events again", app)
	}
	return mended
}

// release gives back the slots.
func (a *attempt) release() {
	a.worker.slots.release(&a.endpoint.slots, 1)
	if a.probe {
		a.worker.probes.release(&a.endpoint.probe, 1)
	}
}

// judge says what becomes of the event.
func (a *attempt) judge(ctx context.Context, failed *failure) store.Attempt {
	if failed == nil {
		return store.Attempt{Result: store.Delivered}
	}
	outcome := store.Attempt{Result: store.GivenUp, Error: failed.reason}
	if failed.gone && a.worker.disable(ctx, a.endpoint.app, a.hook.URL) {
		return outcome
	}
	if delay, ok := a.worker.config.delay(a.claimed.Attempts, failed.retryAfter); ok {
		outcome.Result = store.Failed
		outcome.NextAttemptAt = time.Now().Add(delay)
	}
	return outcome
}

// report tells those who count, and the log where it failed.
func (a *attempt) report(outcome store.Attempt, took time.Duration) {
	w, e := a.worker, &a.claimed.Event
	w.observe(Outcome{Result: outcome.Result, Events: 1, Duration: took})
	level, message := zapcore.InfoLevel, "delivering an event failed"
	switch outcome.Result {
	case store.Delivered:
		return
	case store.GivenUp:
		level, message = zapcore.WarnLevel, "gave up an event"
	}
	if entry := w.logger.Check(level, message); entry != nil {
		entry.Write(
			zap.String("app_id", string(e.App)), zap.String("event_id", string(e.ID)), zap.String("event", string(e.Name)),
			zap.Int("attempt", e.Attempts+1), zap.String("error", outcome.Error), zap.Duration("duration", took))
	}
}

// settle tells the store again and again what is counted as unsettled, until it
// takes it or the worker ends: then the event is attempted again some time,
// however this attempt ended.
func (a *attempt) settle(ctx context.Context, outcome store.Attempt) {
	w, e := a.worker, a.endpoint
	for ctx.Err() == nil {
		pause(ctx)
		if a.trySettle(ctx, outcome) {
			break
		}
	}
	if e.unsettled.Add(-1) == 0 {
		w.Wake(e.app)
	}
}

// settlingFailed is logged where the store does not take an outcome.
const settlingFailed = "recording the outcome of a delivery failed"

func (a *attempt) trySettle(ctx context.Context, outcome store.Attempt) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	err := a.worker.store.Settle(ctx, a.claimed, outcome)
	if err == nil {
		return true
	}
	a.worker.troubles.log(a.worker.logger, settlingFailed, err)
	return false
}

var (
	errOtherEndpoint = errors.New("the app has another endpoint now")
	errDisabled      = errors.New("the endpoint is disabled already")
)

// disable notes that an app's endpoint is gone, and gives up what the app has. It
// returns false where the app has another endpoint by now, or the store
// fails: then the attempt has failed like any other.
func (w *Worker) disable(ctx context.Context, app tenant.AppID, url string) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	now := time.Now().UTC()
	_, err := w.store.UpdateApp(ctx, app, func(record *tenant.App) error {
		if record.Webhook == nil || record.Webhook.URL != url {
			return errOtherEndpoint
		}
		if record.Webhook.DisabledAt != nil {
			return errDisabled
		}
		hook := *record.Webhook
		hook.DisabledAt = &now
		record.Webhook = &hook
		return nil
	})
	switch {
	case errors.Is(err, errDisabled):
		return true
	case errors.Is(err, errOtherEndpoint):
		return false
	case err != nil:
		w.troubles.log(w.logger, "disabling an endpoint failed", err)
		return false
	}
	w.logger.Warn("disabled an endpoint that is gone", zap.String("app_id", string(app)))
	if err := w.bury(ctx, app, now, whyDisabled); err != nil {
		w.troubles.log(w.logger, "giving up events failed", err) // a runner will do it
	}
	return true
}

// overdueShare is which part of an event's lifetime passes between two looks for
// events that are older than that.
const overdueShare = 50

// buryOverdue gives up what a broken endpoint has kept waiting for longer than
// all attempts take, so that its backlog does not grow for ever.
func (w *Worker) buryOverdue(ctx context.Context, e *endpoint) {
	lifetime, now := w.config.lifetime(), time.Now()
	w.mu.Lock()
	due := !now.Before(e.overdue)
	if due {
		e.overdue = now.Add(lifetime / overdueShare)
	}
	w.mu.Unlock()
	if !due {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	if err := w.bury(ctx, e.app, now.Add(-lifetime), whyLate); err != nil {
		w.troubles.log(w.logger, "giving up events failed", err)
		w.mu.Lock()
		e.overdue = now // there is more
		w.mu.Unlock()
	}
}
