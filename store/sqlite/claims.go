package sqlite

import (
	"bytes"
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

// claims are the events on their way, and those that have just come. They are in memory
// alone: only one gateway delivers from a database, so that its end is the end of all of
// them.
type claims struct {
	// looking is held while somebody looks for events that are not claimed: what is seen
	// then is neither claimed nor, once its claim has ended, still as it was before.
	looking sync.Mutex
	// mu guards what follows. The writer takes it: nobody waits for anything who has it.
	mu    sync.Mutex
	byApp map[tenant.AppID]map[store.EventID]claim
	fresh map[tenant.AppID]*fresh
	size  int // of the payloads of all that is fresh
	// hidden: there may be events that are neither claimed nor fresh nor in the outbox.
	hidden bool
	// prefix and last make tokens that no other opening of the database makes.
	prefix string
	last   uint64
}

// claim may still be settled after it has run out, until the event is claimed again.
type claim struct {
	token      string
	until, due time.Time
}

// claimMemory is for how long a claim is remembered that has run out and was
// not settled.
const claimMemory = time.Hour

func newClaims() *claims {
	return &claims{byApp: make(map[tenant.AppID]map[store.EventID]claim), fresh: make(map[tenant.AppID]*fresh), prefix: rand.Text()}
}

// of returns the claimed events of an app.
func (c *claims) of(app tenant.AppID, now time.Time) map[store.EventID]struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	ids := make(map[store.EventID]struct{})
	for id, one := range c.byApp[app] {
		if now.Before(one.until) {
			ids[id] = struct{}{}
			continue
		}
		c.hidden = true
		if now.Sub(one.until) > claimMemory {
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
	c.byApp[e.App][e.ID] = claim{token, until, e.NextAttemptAt}
	if f := c.fresh[e.App]; f != nil && until.Before(f.look) {
		f.look = until
	}
	return store.Claimed{Event: e, Until: until, Token: token}
}

// drop forgets a claim. It needs the lock.
func (c *claims) drop(app tenant.AppID, id store.EventID) {
	if delete(c.byApp[app], id); len(c.byApp[app]) == 0 {
		delete(c.byApp, app)
	}
}

// giveUp ends claims that nobody was told of.
func (c *claims) giveUp(app tenant.AppID, claimed []store.Claimed) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, one := range claimed {
		c.drop(app, one.ID)
		c.hidden = true
	}
	c.forget(app)
}

// current tells whether a claim is not over.
func (c *claims) current(e store.Claimed) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.byApp[e.App][e.ID].token == e.Token
}

// end ends a claim, after which the event is due then; zero is that it is gone, or dead.
func (c *claims) end(e store.Claimed, due time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.fresh[e.App]
	switch {
	case c.byApp[e.App][e.ID].token != e.Token:
		c.forget(e.App) // it may have been one of the others
		if !due.IsZero() {
			return
		}
	case f != nil && !due.IsZero():
		f.note(due)
	}
	c.drop(e.App, e.ID)
}

// Claim implements [store.Store]. It writes nothing, and reads where what it takes may not
// be all fresh.
func (s *Store) Claim(ctx context.Context, app tenant.AppID, most int, lease time.Duration) (claimed []store.Claimed, next time.Time, err error) {
	if s.lock == nil {
		return nil, next, errShared
	}
	if err := s.usable(ctx); err != nil {
		return nil, next, err
	}
	s.claims.looking.Lock()
	defer s.claims.looking.Unlock()
	l := s.claims.begin(app, s.writer.clock())
	for size := 0; len(claimed) < most && size < store.ClaimSize; {
		c, ok := s.claims.takeFresh(l, lease)
		switch {
		case ok:
		case s.claims.lacks(l):
			err = s.lookUp(ctx, l, most+1)
		case l.due():
			c, ok, err = s.takeOther(ctx, l, lease)
		default:
			return claimed, s.claims.finish(l), nil
		}
		if err != nil {
			s.claims.giveUp(app, claimed)
			return nil, next, err
		}
		if ok {
			size += len(c.Payload)
			claimed = append(claimed, c)
		}
	}
	return claimed, s.claims.finish(l), nil
}

// usable returns why nothing is to be done any more, if so.
func (s *Store) usable(ctx context.Context) error {
	select {
	case <-s.writer.closing:
		return store.ErrClosed
	default:
		return ctx.Err()
	}
}

// look is what a claim sees of the events of an app.
type look struct {
	app   tenant.AppID
	now   time.Time
	fresh *fresh
	// looked: in the table, too. Then first and last are what was fresh, others the first
	// of the rest that are not claimed, and beyond is when those are due at the earliest
	// that were not read; zero is that there are none.
	looked      bool
	first, last int64
	others      []dueEvent
	beyond      time.Time
}

// due tells whether one of the others is.
func (l *look) due() bool { return len(l.others) > 0 && !l.others[0].at.After(l.now) }

// begin begins a claim.
func (c *claims) begin(app tenant.AppID, now time.Time) *look {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fresh[app] == nil {
		c.fresh[app] = new(fresh)
	}
	return &look{app: app, now: now, fresh: c.fresh[app]}
}

// takeFresh claims the first event that is fresh, if it is due, and before all others.
func (c *claims) takeFresh(l *look, lease time.Duration) (store.Claimed, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := l.fresh
	e := f.first()
	if f != c.fresh[l.app] || e == nil || e.NextAttemptAt.After(l.now) {
		return store.Claimed{}, false
	}
	before := f.before(e.NextAttemptAt, l.now)
	if l.looked {
		before = len(l.others) == 0 || e.before(l.others[0])
	}
	if !before {
		return store.Claimed{}, false
	}
	c.size -= len(e.Payload)
	claimed := c.add(f.pop().Event, l.now.Add(lease))
	claimed.Payload = bytes.Clone(claimed.Payload) // whose it is may change it
	return claimed, true
}

// lacks tells whether a claim has to look in the table, and has it begin to.
func (c *claims) lacks(l *look) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := l.fresh
	if l.looked || f != c.fresh[l.app] || f.before(l.now, l.now) {
		return false
	}
	l.looked = true
	l.first, l.last = f.span()
	f.others = time.Time{} // whatever becomes one meanwhile is noted anew
	return true
}

// takeOther claims the first of the others, if it is still to be claimed.
func (s *Store) takeOther(ctx context.Context, l *look, lease time.Duration) (claimed store.Claimed, ok bool, err error) {
	d := l.others[0]
	l.others = l.others[1:]
	e, err := s.event(s.reads.selectEvent.QueryRowContext(ctx, d.seq))
	if errors.Is(err, store.ErrNotFound) || err == nil && (e.ID != d.id || e.State != store.Pending) {
		return claimed, false, nil // somebody was faster; another event may have its place by now
	}
	if err != nil {
		return claimed, false, err
	}
	s.claims.mu.Lock()
	defer s.claims.mu.Unlock()
	if f := s.claims.fresh[l.app]; f != nil && f.has(d.seq) {
		return claimed, false, nil // it was committed, and is fresh only now
	}
	return s.claims.add(e, l.now.Add(lease)), true, nil
}

// finish ends a claim, and returns when the first event is due that is left.
func (c *claims) finish(l *look) (next time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := l.fresh
	if f != c.fresh[l.app] {
		return l.now // all was forgotten meanwhile: there may be something
	}
	if l.looked {
		for _, d := range l.others {
			if !f.has(d.seq) {
				f.note(d.at)
				break
			}
		}
		if !l.beyond.IsZero() {
			f.note(l.beyond)
		}
		f.full = f.full && !f.others.IsZero()
		f.look = l.now.Add(lookInterval)
		for _, one := range c.byApp[l.app] {
			if one.until.After(l.now) && one.until.Before(f.look) {
				f.look = one.until
			}
		}
	}
	next = f.others
	if e := f.first(); e != nil && (next.IsZero() || e.NextAttemptAt.Before(next)) {
		next = e.NextAttemptAt
	}
	return next
}

// dueEvent is a pending event and when it is due.
type dueEvent struct {
	seq int64
	id  store.EventID
	at  time.Time
}

// before tells which of two events is claimed first.
func (e *freshEvent) before(d dueEvent) bool {
	return e.NextAttemptAt.Before(d.at) || e.NextAttemptAt.Equal(d.at) && e.seq < d.seq
}

// lookUp finds the first of an app's others that are not claimed.
func (s *Store) lookUp(ctx context.Context, l *look, most int) error {
	held := s.claims.of(l.app, l.now)
	if s.claims.hides() {
		if err := s.showArrivals(ctx); err != nil {
			return err
		}
	}
	limit := most + len(held)
	rows, err := s.reads.selectDue.QueryContext(ctx, l.app, l.first, l.last, limit)
	due, err := collect(rows, s.readError(err), func(scan func(...any) error) (d dueEvent, err error) {
		var at int64
		err = scan(&d.seq, &d.id, &at)
		d.at = time.UnixMicro(at).UTC()
		return d, err
	})
	if err != nil {
		return s.readError(err)
	}
	if len(due) == limit {
		l.beyond = due[limit-1].at
	}
	l.others = slices.DeleteFunc(due, func(d dueEvent) bool {
		_, claimed := held[d.id]
		return claimed
	})
	return nil
}

// Settle implements [store.Store].
func (s *Store) Settle(ctx context.Context, c store.Claimed, a store.Attempt) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	if a.Result != store.Delivered && !s.claims.current(c) {
		return nil
	}
	if a.Result == store.Returned {
		s.claims.hide()
	} else {
		err := s.writer.do(ctx, &operation{apply: func(w *writer) error { return w.settleAttempt(c, a) }})
		if err != nil {
			return err
		}
	}
	s.claims.end(c, dueAfter(c, a)) // not before it is in the database, where the next claim looks
	return nil
}

// SettleDelivered implements [store.AttemptSettler].
func (s *Store) SettleDelivered(c store.Claimed, done func(error)) {
	c.Payload = nil // nobody needs it any more
	op := &operation{
		apply: func(w *writer) error { return w.settleAttempt(c, store.Attempt{Result: store.Delivered}) },
		after: func(err error) {
			if err == nil {
				s.claims.end(c, time.Time{})
			}
			done(err)
		},
	}
	if !s.writer.queue.add(op) {
		done(store.ErrClosed)
	}
}

// dueAfter is when an event is due after an attempt; zero is never.
func dueAfter(c store.Claimed, a store.Attempt) time.Time {
	switch a.Result {
	case store.Returned:
		return c.NextAttemptAt
	case store.Failed:
		return time.UnixMicro(a.NextAttemptAt.UnixMicro()).UTC()
	}
	return time.Time{}
}

// settleAttempt writes down the outcome of an attempt. One that has been written
// down is known by the number of attempts.
func (w *writer) settleAttempt(c store.Claimed, a store.Attempt) (err error) {
	if _, err := w.begin(); err != nil {
		return err
	}
	if err := w.recoverArrivals(); err != nil {
		return err
	}
	if one := w.arrivals.find(c.ID); one != nil {
		return w.settleArrival(one, a)
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
