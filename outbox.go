package gateway

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/connexease/caddy-whatsapp-gateway/delivery"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// Delivery says how events are delivered to the apps' endpoints.
type Delivery struct {
	// How long one attempt may take. Default: 5s.
	Timeout caddy.Duration `json:"timeout,omitempty"`
	// How many attempts run at the same time. Default: 256.
	Concurrency int `json:"concurrency,omitempty"`
	// How many of them at one endpoint. Default: 16.
	ConcurrencyPerEndpoint int `json:"concurrency_per_endpoint,omitempty"`
	// How long after each failed attempt the next one is made; after the last
	// the event is a dead letter. Default: 5s, 5m, 30m, 2h, 5h, 10h, 10h.
	Retry []caddy.Duration `json:"retry,omitempty"`
	// Allows endpoints that are not public, or without TLS: for tests and intranets.
	AllowPrivateTargets bool `json:"allow_private_targets,omitempty"`
}

const (
	// maxAppSecrets and maxRetries bound lists of the Caddyfile.
	maxAppSecrets = 64
	maxRetries    = delivery.MaxRetries
)

func (d *Delivery) validate() error {
	if err := d.config().Validate(); err != nil {
		return fmt.Errorf("delivery: %w", err)
	}
	return nil
}

// config is what the worker works with; it knows the defaults.
func (d *Delivery) config() delivery.Config {
	c := delivery.Config{
		Timeout: time.Duration(d.Timeout), Concurrency: d.Concurrency, PerEndpoint: d.ConcurrencyPerEndpoint,
		AllowPrivateTargets: d.AllowPrivateTargets,
	}
	for _, delay := range d.Retry {
		c.Retry = append(c.Retry, time.Duration(delay))
	}
	return c
}

// attemptResults are the values of the label result of deliveries.
var attemptResults = map[store.AttemptResult]string{
	store.Delivered: "delivered",
	store.Failed:    "failed",
	store.GivenUp:   "given_up",
}

// deliver delivers the events in the outbox until ctx is done, and then finishes
// the attempts under way, which keep the store open.
func (a *App) deliver(ctx context.Context) {
	logger := zap.New(&latestCore{store: a.store}).Named(moduleName + ".delivery")
	worker := delivery.New(a.Delivery.config(), a.store.outbox(), logger, func(o delivery.Outcome) {
		metrics.deliveries.WithLabelValues(attemptResults[o.Result]).Add(float64(o.Events))
		if o.Duration > 0 {
			metrics.attemptSeconds.Observe(o.Duration.Seconds())
		}
	})
	previous := latestWorker.Swap(worker)
	a.mu.Lock()
	a.users++
	a.worker = worker
	a.mu.Unlock()
	go func() {
		defer a.release()
		worker.Run(ctx)
		// A configuration that failed to start leaves the one before it at work.
		latestWorker.CompareAndSwap(worker, previous)
	}()
}

// wake tells the worker of new events. The worker finds those of an app that is
// stopped or not started yet by itself.
func (a *App) wake(apps []tenant.AppID) {
	a.mu.Lock()
	worker := a.worker
	a.mu.Unlock()
	if worker != nil {
		worker.Wake(apps...)
	}
}

// latestCore logs where and as the newest configuration does: a worker may
// outlive its own, and the log of that is closed.
type latestCore struct {
	store  *sharedStore
	fields []zap.Field
}

// Enabled implements zapcore.Core.
func (c *latestCore) Enabled(level zapcore.Level) bool { return c.store.log().Core().Enabled(level) }

// With implements zapcore.Core.
func (c *latestCore) With(fields []zap.Field) zapcore.Core {
	return &latestCore{c.store, slices.Concat(c.fields, fields)}
}

// Check implements zapcore.Core.
func (c *latestCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

// Write implements zapcore.Core.
func (c *latestCore) Write(e zapcore.Entry, fields []zap.Field) error {
	if entry := c.store.log().Core().Check(e, nil); entry != nil {
		entry.Write(slices.Concat(c.fields, fields)...)
	}
	return nil
}

// Sync implements zapcore.Core.
func (c *latestCore) Sync() error { return c.store.log().Core().Sync() }

// Interface guard
var _ zapcore.Core = (*latestCore)(nil)
