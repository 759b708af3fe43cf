package sqlite

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// claims are the events on their way. They are in memory alone: only one
// gateway delivers from a database, so that its end is the end of all of them.
type claims struct {
	// mu is held while a claim looks for events: what it sees then is neither
	// claimed nor, once its claim has ended, still as it was before.
	mu    sync.Mutex
	byApp map[tenant.AppID]map[store.EventID]claim
	// prefix and last make tokens that no other opening of the database makes.
	prefix string
	last   uint64
}

// claim may still be settled after it has run out, until the event is claimed again.
type claim struct {
	token string
	until time.Time
}

// claimMemory is for how long a claim is remembered that has run out and was
// not settled.
const claimMemory = time.Hour

func newClaims() claims {
	return claims{byApp: make(map[tenant.AppID]map[store.EventID]claim), prefix: rand.Text()}
}

// of returns the claimed events of an app. It needs the lock.
func (c *claims) of(app tenant.AppID, now time.Time) map[store.EventID]struct{} {
	ids := make(map[store.EventID]struct{})
	for id, one := range c.byApp[app] {
		switch {
		case now.Before(one.until):
			ids[id] = struct{}{}
		case now.Sub(one.until) > claimMemory:
			c.drop(app, id)
		}
	}
	return ids
}

// add claims an event. It needs the lock.
func (c *claims) add(e store.Event, until time.Time) store.Claimed {
	if c.byApp[e.App] == nil {
		c.byApp[e.App] = make(map[store.EventID]claim)
	}
	c.last++
	token := c.prefix + strconv.FormatUint(c.last, 10)
	c.byApp[e.App][e.ID] = claim{token, until}
	return store.Claimed{Event: e, Until: until, Token: token}
}

// drop forgets a claim. It needs the lock.
func (c *claims) drop(app tenant.AppID, id store.EventID) {
	if delete(c.byApp[app], id); len(c.byApp[app]) == 0 {
		delete(c.byApp, app)
	}
}

// current tells whether a claim is not over.
func (c *claims) current(e store.Claimed) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.byApp[e.App][e.ID].token == e.Token
}

// end ends a claim.
func (c *claims) end(e store.Claimed) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byApp[e.App][e.ID].token == e.Token {
		c.drop(e.App, e.ID)
	}
}

// Claim implements [store.Store]. It writes nothing.
func (s *Store) Claim(ctx context.Context, app tenant.AppID, most int, lease time.Duration) (claimed []store.Claimed, next time.Time, err error) {
	if s.lock == nil {
		return nil, next, errShared
	}
	s.claims.mu.Lock()
	defer s.claims.mu.Unlock()
	now := s.writer.clock()
	due, err := s.unclaimed(ctx, app, most+1, s.claims.of(app, now))
	if err != nil {
		return nil, next, err
	}
	size := 0
	for i, d := range due {
		if i == most || d.at.After(now) || size >= store.ClaimSize {
			return claimed, d.at, nil
		}
		e, err := s.event(s.reads.selectEvent.QueryRowContext(ctx, d.seq))
		if errors.Is(err, store.ErrNotFound) || err == nil && (e.ID != d.id || e.State != store.Pending) {
			continue // somebody was faster; another event may have its place by now
		}
		if err != nil {
			for _, c := range claimed {
				s.claims.drop(app, c.ID)
			}
			return nil, next, err
		}
		size += len(e.Payload)
		claimed = append(claimed, s.claims.add(e, now.Add(lease)))
	}
	return claimed, next, nil
}

// dueEvent is a pending event and when it is due.
type dueEvent struct {
	seq int64
	id  store.EventID
	at  time.Time
}

// unclaimed returns the first pending events of an app that are not claimed.
func (s *Store) unclaimed(ctx context.Context, app tenant.AppID, most int, held map[store.EventID]struct{}) ([]dueEvent, error) {
	rows, err := s.reads.selectDue.QueryContext(ctx, app, most+len(held))
	due, err := collect(rows, s.readError(err), func(scan func(...any) error) (d dueEvent, err error) {
		var at int64
		err = scan(&d.seq, &d.id, &at)
		d.at = time.UnixMicro(at).UTC()
		return d, err
	})
	if err != nil {
		return nil, s.readError(err)
	}
	due = slices.DeleteFunc(due, func(d dueEvent) bool {
		_, claimed := held[d.id]
		return claimed
	})
	return due[:min(most, len(due))], nil
}

// Settle implements [store.Store].
func (s *Store) Settle(ctx context.Context, c store.Claimed, a store.Attempt) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-s.writer.closing:
		return store.ErrClosed
	default:
	}
	if a.Result != store.Delivered && !s.claims.current(c) {
		return nil
	}
	if a.Result != store.Returned {
		err := s.writer.do(ctx, &operation{apply: func(w *writer) error { return w.settleAttempt(c, a) }})
		if err != nil {
			return err
		}
	}
	s.claims.end(c) // not before it is in the database, where the next claim looks
	return nil
}

// settleAttempt writes down the outcome of an attempt. One that has been written
// down is known by the number of attempts.
func (w *writer) settleAttempt(c store.Claimed, a store.Attempt) (err error) {
	if _, err := w.begin(); err != nil {
		return err
	}
	switch a.Result {
	case store.Delivered:
		_, err = w.commands.deleteEvent.exec(string(c.ID))
	case store.Failed:
		_, err = w.commands.updateEvent.exec(string(store.Pending), a.NextAttemptAt.UnixMicro(), a.Error, string(c.ID), int64(c.Attempts))
	case store.GivenUp:
		_, err = w.commands.updateEvent.exec(string(store.Dead), w.clock().UnixMicro(), a.Error, string(c.ID), int64(c.Attempts))
	}
	return err
}
