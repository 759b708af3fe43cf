// Package deadline makes contexts that end after a while and that many share, so that an
// exchange costs no timer of its own.
package deadline

import (
	"context"
	"sync/atomic"
	"time"
)

// Shared makes contexts that end after the same while. Those that are asked for at about
// the same time are one: it ends by itself, up to a 32nd early and never late, because others
// count on how long something takes at the most. Make one with [New].
type Shared struct {
	after  time.Duration
	newest atomic.Pointer[given]
}

// given is a context that is handed out until a certain time.
type given struct {
	context.Context
	cancel context.CancelFunc // nobody calls it: others have the context, too
	until  time.Time
}

// New returns one for contexts that end after so long.
func New(after time.Duration) *Shared { return &Shared{after: after} }

// Next returns a context that ends within the time, and not much earlier.
func (d *Shared) Next() context.Context {
	now, early := time.Now(), d.after/32
	if newest := d.newest.Load(); newest != nil && now.Before(newest.until) {
		return newest.Context
	}
	// Where several are made at a time, one of them is handed out again.
	ctx, cancel := context.WithTimeout(context.Background(), d.after)
	d.newest.Store(&given{ctx, cancel, now.Add(early)})
	return ctx
}
