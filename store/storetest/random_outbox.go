package storetest

import (
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

var randomOutboxChecks = []check{
	{"random deliveries do what a plain model does", randomDeliveries},
}

// courier makes random moves on the outbox. The model is the events as they
// should be, payloads apart, oldest first. All times are hours apart, so that
// it makes no difference whether the clock runs by itself.
type courier struct {
	*fixture
	*rand.Rand
	apps    []tenant.AppID
	outbox  []*parcel
	claimed []handed
}

// parcel is an event and until when it is claimed.
type parcel struct {
	store.Event
	until time.Time
	token string
}

// handed is a claim, which may be over.
type handed struct {
	*parcel
	store.Claimed
}

func randomDeliveries(f *fixture) {
	c := &courier{fixture: f, Rand: Rand(f), apps: []tenant.AppID{newAppID(), newAppID(), newAppID()}}
	moves := []struct {
		weight int
		name   string
		move   func()
	}{
		{14, "receive", c.receiveSome},
		{25, "claim", c.claimSome},
		{30, "settle", c.settleSome},
		{3, "bury", c.burySome},
		{6, "replay by id", c.replaySome},
		{2, "replay by app", c.replayApp},
		{8, "time", c.wait},
		{2, "restart", c.restartAll},
	}
	var deck []int
	for i, m := range moves {
		for range m.weight {
			deck = append(deck, i)
		}
	}
	for step := range f.steps(300) {
		m := moves[pick(c.Rand, deck)]
		m.move()
		c.compare()
		if f.Failed() {
			f.Fatalf("step %d, %s, went wrong", step, m.name)
		}
	}
}

func (c *courier) compare() {
	c.Helper()
	var want []store.Event
	backlog := make(map[tenant.AppID]time.Time)
	for _, p := range c.outbox {
		e := p.Event
		e.Payload = nil
		want = append(want, e)
		if at, ok := backlog[p.App]; p.State == store.Pending && (!ok || p.NextAttemptAt.Before(at)) {
			backlog[p.App] = p.NextAttemptAt
		}
	}
	c.wantSame("events", c.events(store.EventFilter{}), want)
	c.wantSame("backlog", c.backlog(), backlog)
}

func (c *courier) receiveSome() {
	batch := newEvents(pick(c.Rand, c.apps), 1+c.IntN(3))
	if c.IntN(10) == 0 {
		batch = append(batch, quarantined([]byte("x")))
	}
	c.receive(batch...)
	for _, e := range batch {
		got := c.event(e.ID)
		e.ReceivedAt, e.NextAttemptAt = got.ReceivedAt, got.NextAttemptAt // see "the store says when an event was received"
		c.wantSame("received event", got, e)
		c.outbox = append(c.outbox, &parcel{Event: e})
	}
}

// free are the pending events of an app that nobody has claimed, the longest
// due first.
func (c *courier) free(app tenant.AppID) (free []*parcel) {
	for _, p := range c.outbox {
		if p.App == app && p.State == store.Pending && p.until.Before(c.Now()) {
			free = append(free, p)
		}
	}
	slices.SortStableFunc(free, func(a, b *parcel) int { return a.NextAttemptAt.Compare(b.NextAttemptAt) })
	return free
}

func (c *courier) claimSome() {
	app, most := pick(c.Rand, c.apps), 1+c.IntN(6)
	free := c.free(app)
	due := len(free)
	if i := slices.IndexFunc(free, func(p *parcel) bool { return p.NextAttemptAt.After(c.Now()) }); i >= 0 {
		due = i
	}
	claimed, next := c.claimNext(app, most, time.Hour)
	if len(claimed) != min(due, most) {
		c.Errorf("%d events were claimed, where %d are due and at most %d were asked for", len(claimed), due, most)
		return
	}
	for i, got := range claimed {
		// Of those that are due at the same time, any may come first.
		if !got.NextAttemptAt.Equal(free[i].NextAttemptAt) {
			c.Errorf("claimed event %d is due at %v, want %v", i, got.NextAttemptAt, free[i].NextAttemptAt)
		}
		p := c.outbox[slices.IndexFunc(c.outbox, func(p *parcel) bool { return p.ID == got.ID })]
		c.wantSame("claimed event", got.Event, p.Event)
		p.until, p.token = got.Until, got.Token
		c.claimed = append(c.claimed, handed{p, got})
	}
	var want time.Time
	if len(free) > len(claimed) {
		want = free[len(claimed)].NextAttemptAt
	}
	if !next.Equal(want) {
		c.Errorf("the next event is due at %v, want %v", next, want)
	}
}

// settleSome settles any claim there ever was, more often one of the last.
func (c *courier) settleSome() {
	if len(c.claimed) == 0 {
		return
	}
	h := pick(c.Rand, c.claimed[max(0, len(c.claimed)-8):])
	if c.IntN(3) == 0 {
		h = pick(c.Rand, c.claimed)
	}
	p := h.parcel
	stale := p.token != h.Token || p.State != store.Pending
	if !stale && p.until.Before(c.Now()) {
		return // which a store may take or not
	}
	result := pick(c.Rand, []store.AttemptResult{store.Returned, store.Delivered, store.Failed, store.Failed, store.GivenUp})
	a := store.Attempt{Result: result, Error: pick(c.Rand, []string{"", "503", "timeout"})}
	if a.Result == store.Failed {
		a.NextAttemptAt = c.inAnHour().Add(time.Duration(c.IntN(6)-1) * time.Hour)
	}
	c.settle(h.Claimed, a)
	if stale && a.Result != store.Delivered {
		return
	}
	switch p.until, p.token = (time.Time{}), ""; a.Result {
	case store.Delivered:
		c.outbox = slices.DeleteFunc(c.outbox, func(o *parcel) bool { return o == p })
	case store.Failed:
		p.Attempts, p.NextAttemptAt, p.LastError = p.Attempts+1, a.NextAttemptAt, a.Error
	case store.GivenUp:
		p.Attempts++
		p.die(a.Error)
	}
}

func (p *parcel) die(reason string) {
	p.State, p.NextAttemptAt, p.LastError = store.Dead, time.Time{}, reason
}

func (c *courier) burySome() {
	app, before := pick(c.Rand, c.apps), c.Now().Add(-time.Duration(c.IntN(3))*time.Hour-30*time.Minute)
	n := 0
	for _, p := range c.free(app) {
		if p.ReceivedAt.Before(before) {
			p.die("buried")
			p.token = ""
			n++
		}
	}
	c.bury(app, before, n)
}

func (c *courier) replaySome() {
	var list []store.EventID
	n, known := 0, true
	for range 1 + c.IntN(2) {
		if len(c.outbox) > 0 {
			p := pick(c.Rand, c.outbox)
			if c.IntN(2) == 0 {
				if dead := slices.DeleteFunc(slices.Clone(c.outbox), func(p *parcel) bool { return p.State != store.Dead }); len(dead) > 0 {
					p = pick(c.Rand, dead)
				}
			}
			known = known && p.State == store.Dead
			if !slices.Contains(list, p.ID) {
				list = append(list, p.ID)
				n++
			}
		}
	}
	if len(list) == 0 || c.IntN(8) == 0 {
		list, known = append(list, store.NewEventID()), false
	}
	if !known {
		_, err := c.Replay(c.Context(), list, "")
		if !errors.Is(err, store.ErrNotFound) {
			c.Errorf("Replay: %v, want ErrNotFound", err)
		}
		return
	}
	c.replay(n, "", list...)
	c.replayed(func(p *parcel) bool { return slices.Contains(list, p.ID) })
}

func (c *courier) replayApp() {
	app := pick(c.Rand, c.apps)
	dead := func(p *parcel) bool { return p.App == app && p.State == store.Dead }
	n := 0
	for _, p := range c.outbox {
		if dead(p) {
			n++
		}
	}
	c.replay(n, app)
	c.replayed(dead)
}

func (c *courier) replayed(which func(*parcel) bool) {
	c.Helper()
	for _, p := range c.outbox {
		if !which(p) {
			continue
		}
		got := c.event(p.ID)
		if d := c.Now().Sub(got.NextAttemptAt); d < -time.Millisecond || d > time.Minute {
			c.Errorf("a replayed event is due %v ago", d)
		}
		c.wantSame("time of receipt", got.ReceivedAt, got.NextAttemptAt)
		p.State, p.Attempts, p.ReceivedAt, p.NextAttemptAt, p.LastError = store.Pending, 0, got.ReceivedAt, got.NextAttemptAt, got.LastError
		p.until, p.token = time.Time{}, ""
	}
}

// wait moves the clock by more than an hour, which ends every claim.
func (c *courier) wait() {
	if !c.realTime {
		c.Advance(time.Hour + time.Minute + 7*time.Millisecond)
	}
}

// A store may free the claims at once when it is opened again, or keep them.
func (c *courier) restartAll() {
	if !c.realTime {
		c.restart()
		c.wait()
	}
}
