package sqlite

import (
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

const (
	// maxFresh and maxFreshSize bound the events of an app that are kept in memory, and
	// their payloads in bytes; allFreshSize bounds those of all apps together.
	maxFresh     = 4096
	maxFreshSize = 8 << 20
	allFreshSize = 64 << 20
	// lookInterval is how soon the table is asked again what else an app has there:
	// somebody may have written to it by hand.
	lookInterval = time.Second
)

// freshEvent is an event as it was committed, and its seq in the outbox.
type freshEvent struct {
	store.Event
	seq     int64
	entered bool // it was written to the outbox at once
}

// newFreshEvent returns what the table has of an event that was received then.
func newFreshEvent(e *store.Event, seq, micros int64) freshEvent {
	at := time.UnixMicro(micros).UTC()
	return freshEvent{seq: seq, Event: store.Event{
		ID: e.ID, App: e.App, Name: e.Name, State: e.State, LastError: e.LastError,
		Payload: append([]byte{}, e.Payload...), ReceivedAt: at, NextAttemptAt: at,
	}}
}

// fresh are the events of an app that were received by this process and that nobody has
// claimed yet. Claiming them reads nothing, where it is known that none of the others is
// due before. They are in the outbox, or among the arrivals, as well: they can be dropped
// at any time, and those who look for them then have the arrivals entered.
type fresh struct {
	// events are the longest due first, which is as they came, from the one at taken on.
	// Whatever the app has in the table between the first and the last of them by seq is
	// here, or claimed.
	events []freshEvent
	taken  int
	size   int // of their payloads
	// others is when the first is due that is pending, not here, and not claimed; zero is
	// none. It is right until look, when a claim runs out or somebody may have written;
	// zero is that it is not known.
	others, look time.Time
	// full: there was no room, and what comes is one of the others until all are gone.
	full bool
}

// first returns the event that is due the longest, or nil.
func (f *fresh) first() *freshEvent {
	if f.taken == len(f.events) {
		return nil
	}
	return &f.events[f.taken]
}

// span returns between which seqs all are here or claimed; (0, 0) where there is none.
func (f *fresh) span() (first, last int64) {
	if e := f.first(); e != nil {
		return e.seq, f.events[len(f.events)-1].seq
	}
	return 0, 0
}

// has tells whether the event with a seq of the app's is here, or claimed.
func (f *fresh) has(seq int64) bool {
	first, last := f.span()
	return first <= seq && seq <= last
}

// note says that one of the others is due then.
func (f *fresh) note(due time.Time) {
	if f.others.IsZero() || due.Before(f.others) {
		f.others = due
	}
}

// before tells whether it is known now that none of the others is due by then.
func (f *fresh) before(due, now time.Time) bool {
	return now.Before(f.look) && (f.others.IsZero() || f.others.After(due))
}

// pop takes the first event out.
func (f *fresh) pop() freshEvent {
	e := f.events[f.taken]
	f.events[f.taken] = freshEvent{}
	f.taken++
	f.size -= len(e.Payload)
	if f.taken == len(f.events) {
		f.events, f.taken = f.events[:0], 0
	}
	return e
}

// push adds an event at the end.
func (f *fresh) push(e freshEvent) {
	if f.taken > 0 && len(f.events) == cap(f.events) {
		n := copy(f.events, f.events[f.taken:])
		clear(f.events[n:])
		f.events, f.taken = f.events[:n], 0
	}
	f.events = append(f.events, e)
	f.size += len(e.Payload)
}

// dropOthers forgets the claims of those events that are not among the current ones.
func (c *claims) dropOthers(app tenant.AppID, ids []store.EventID, current map[store.EventID]struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range ids {
		if _, ok := current[id]; !ok {
			c.drop(app, id)
		}
	}
}

// received adds what has just been committed. Only the writer calls it, before it answers
// whoever received the events, and so before it writes any outcome of theirs.
func (c *claims) received(events []freshEvent) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range events {
		if _, claimed := c.byApp[e.App][e.ID]; claimed { // by somebody who found it in the outbox
			c.forget(e.App)
			continue
		}
		f := c.fresh[e.App]
		if f != nil && f.first() != nil {
			if last := &f.events[len(f.events)-1]; e.NextAttemptAt.Before(last.NextAttemptAt) || e.seq <= last.seq { // the clock was set back
				c.forget(e.App)
				f = nil
			}
		}
		if f == nil {
			f = new(fresh)
			c.fresh[e.App] = f
		}
		size := len(e.Payload)
		if f.full = !c.room(f, size); f.full {
			f.note(e.NextAttemptAt)
			c.hidden = c.hidden || !e.entered
			continue
		}
		f.push(e)
		c.size += size
	}
}

// forget drops what is known of an app's events that are not claimed. It needs the lock.
func (c *claims) forget(app tenant.AppID) {
	if f := c.fresh[app]; f != nil {
		c.hidden = c.hidden || f.first() != nil
		c.size -= f.size
		delete(c.fresh, app)
	}
}

// forgetAll does so of all apps.
func (c *claims) forgetAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.fresh)
	c.size, c.hidden = 0, true
}

// hide says that there may be events that are neither claimed nor fresh nor in the outbox.
func (c *claims) hide() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hidden = true
}

// show says that there are none. Whoever looks in the outbox after that has to find what was
// hidden, so that it is not said before the transaction is committed that has entered it.
func (c *claims) show() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hidden = false
}

func (c *claims) hides() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hidden
}

// hasRoom tells whether another event of an app can be fresh.
func (c *claims) hasRoom(app tenant.AppID, size int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.room(c.fresh[app], size)
}

// room is hasRoom. It needs the lock.
func (c *claims) room(f *fresh, size int) bool {
	return c.size+size <= allFreshSize && (f == nil || !f.full && len(f.events)-f.taken < maxFresh && f.size+size <= maxFreshSize)
}

// backlog adds when the first event of each app is due that is claimed, or fresh.
func (c *claims) backlog(to map[tenant.AppID]time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	add := func(app tenant.AppID, due time.Time) {
		if first, ok := to[app]; !ok || due.Before(first) {
			to[app] = due
		}
	}
	for app, f := range c.fresh {
		if e := f.first(); e != nil {
			add(app, e.NextAttemptAt)
		}
	}
	for app, claimed := range c.byApp {
		for _, one := range claimed {
			add(app, one.due)
		}
	}
}

// sweep drops what nobody has claimed for long: an endpoint may be away for hours.
func (c *claims) sweep(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for app, f := range c.fresh {
		if e := f.first(); e == nil || now.Sub(e.NextAttemptAt) > sweepInterval {
			c.forget(app)
		}
	}
}
