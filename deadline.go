package gateway

import (
	"context"
	"sync/atomic"
	"time"
)

// deadlines makes contexts that end after a while. Those that are asked for at about
// the same time are one, so that a send costs no timer: it ends by itself, up to a 32nd
// early and never late, because others count on what a send takes at the most. Make one
// with [newDeadlines].
type deadlines struct {
	after  time.Duration
	newest atomic.Pointer[deadline]
}

// deadline is a context that is handed out until a certain time.
type deadline struct {
	context.Context
	cancel context.CancelFunc // nobody calls it: others have the context, too
	until  time.Time
}

func newDeadlines(after time.Duration) *deadlines { return &deadlines{after: after} }

// next returns a context that ends within the time, and not much earlier.
func (d *deadlines) next() context.Context {
	now, early := time.Now(), d.after/32
	if newest := d.newest.Load(); newest != nil && now.Before(newest.until) {
		return newest.Context
	}
	// Where several are made at a time, one of them is handed out again.
	ctx, cancel := context.WithTimeout(context.Background(), d.after)
	d.newest.Store(&deadline{ctx, cancel, now.Add(early)})
	return ctx
}
