package gateway

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/connexease/caddy-whatsapp-gateway/store"
)

const (
	// maxReported is how many entries are reported at once.
	maxReported = 500
	// reportEvery is how often the ledger is looked at when there was nothing new in
	// it, and reportWhenBusy when another gateway reports.
	reportEvery    = time.Second
	reportWhenBusy = 5 * time.Second
	// maxReportDelay bounds the growing delay after failures.
	maxReportDelay = 30 * time.Second
	// reportTimeout bounds a step in the store.
	reportTimeout = 10 * time.Second
)

// oldestUnreported is when the oldest entry was made that is known to be
// unreported, in nanoseconds; 0 where there is none.
var oldestUnreported atomic.Int64

// reporter sends the ledger to the Core Service. What is not known to have arrived
// stays first in the store, so nothing is lost and nothing overtaken; what has
// arrived and could not be ticked off is sent again, under the same ids.
type reporter struct {
	store  store.Follower
	core   *coreService
	logger *zap.Logger
	// failures in a row.
	failures int
}

func newReporter(follower store.Follower, core *coreService, logger *zap.Logger) *reporter {
	return &reporter{store: follower, core: core, logger: logger}
}

// run reports until ctx is done.
func (r *reporter) run(ctx context.Context) {
	defer oldestUnreported.Store(0) // somebody else's from now on
	for {
		select {
		case <-time.After(r.step(ctx)):
		case <-ctx.Done():
			return
		}
	}
}

// step reports one batch, and returns how long to wait for the next.
func (r *reporter) step(ctx context.Context) time.Duration {
	n, err := r.report(ctx)
	switch {
	case ctx.Err() != nil:
		return 0
	case errors.Is(err, store.ErrBusy):
		oldestUnreported.Store(0)
		return reportWhenBusy
	case err != nil:
		metrics.reportFailures.Inc()
		if r.failures++; r.failures == 1 {
			r.logger.Error("reporting the ledger to the core service failed and is tried again", zap.Error(err))
		}
		return min(maxReportDelay, reportEvery<<min(r.failures-1, 10))
	case r.failures > 0:
		r.logger.Info("the ledger is reported to the core service again", zap.Int("failures", r.failures))
		r.failures = 0
	}
	if n == 0 {
		return reportEvery
	}
	return 0
}

// report sends the oldest entries that the Core Service may not have, and returns
// how many there were.
func (r *reporter) report(ctx context.Context) (int, error) {
	var batch store.Report
	err := within(ctx, reportTimeout, func(ctx context.Context) (err error) {
		batch, err = r.store.Unreported(ctx, maxReported)
		return err
	})
	if err != nil {
		return 0, err
	}
	if len(batch.Entries) == 0 {
		oldestUnreported.Store(0)
		return 0, nil
	}
	oldestUnreported.Store(batch.Entries[0].At.UnixNano())
	if err := r.core.Report(ctx, batch.Entries); err != nil {
		return 0, err
	}
	if err := within(ctx, reportTimeout, func(ctx context.Context) error { return r.store.Reported(ctx, batch) }); err != nil {
		return 0, err
	}
	metrics.reported.Add(float64(len(batch.Entries)))
	return len(batch.Entries), nil
}

// within calls do with a context that ends after timeout.
func within(ctx context.Context, timeout time.Duration, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return do(ctx)
}
