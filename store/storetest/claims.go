package storetest

import (
	"slices"
	"sync"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

var claimChecks = []check{
	{"a claim takes what is due and no more than asked", claimTakesDue},
	{"the longest due is claimed first", longestDueFirst},
	{"a claimed event is kept from others", claimKeeps},
	{"a claim that ran out is taken up again", claimRunsOut},
	{"every claim has a token of its own", claimTokens},
	{"what is not due is not claimed", notDueNotClaimed},
	{"a claim tells when the next event is due", claimTellsNext},
	{"a claim of large events is small", claimIsSmall},
	{"an event is claimed however large it is", largeIsClaimed},
	{"claims leave other apps alone", claimsLeaveOthers},
	{"claims do not outlast their lease over a restart", claimsOverRestart},
	{"each event of 64 racers is claimed once", claimsAreExclusive},
	{"events that come while others are claimed are claimed once", claimWhileReceiving},
}

// brief is a lease that a check waits for; lease is one that it does not.
const (
	brief = 100 * time.Millisecond
	lease = 10 * time.Minute
)

// pass waits until what takes brief is over.
func (f *fixture) pass() { f.Advance(brief + time.Millisecond) }

// inAnHour is a time that every store can keep.
func (f *fixture) inAnHour() time.Time {
	return f.Now().Add(time.Hour).UTC().Truncate(time.Millisecond)
}

func (f *fixture) claimNext(app tenant.AppID, most int, lease time.Duration) ([]store.Claimed, time.Time) {
	f.Helper()
	claimed, next, err := f.Claim(f.Context(), app, most, lease)
	f.must(err)
	if len(claimed) > most {
		f.Errorf("%d events were claimed, which is more than %d", len(claimed), most)
	}
	return claimed, next
}

func (f *fixture) claim(app tenant.AppID, most int, lease time.Duration) []store.Claimed {
	f.Helper()
	claimed, _ := f.claimNext(app, most, lease)
	return claimed
}

// claimOne claims the one event that an app should have.
func (f *fixture) claimOne(app tenant.AppID, lease time.Duration) store.Claimed {
	f.Helper()
	claimed := f.claim(app, 10, lease)
	if len(claimed) != 1 {
		f.Fatalf("%d events were claimed, want one", len(claimed))
	}
	return claimed[0]
}

// wantClaim claims and compares; none means that nothing may be claimed.
func (f *fixture) wantClaim(app tenant.AppID, most int, lease time.Duration, want ...store.Event) []store.Claimed {
	f.Helper()
	claimed := f.claim(app, most, lease)
	f.wantSame("claimed events", ids(claimed), ids(want))
	return claimed
}

// wantNext tells when a claim of nothing says that the next event is due.
func (f *fixture) wantNext(app tenant.AppID, want time.Time) {
	f.Helper()
	claimed, next := f.claimNext(app, 10, lease)
	if len(claimed) > 0 || !next.Equal(want) {
		f.Errorf("%d events were claimed and the next is due at %v, want none and %v", len(claimed), next, want)
	}
}

func (f *fixture) settle(c store.Claimed, a store.Attempt) {
	f.Helper()
	f.must(f.Settle(f.Context(), c, a))
}

func claimTakesDue(f *fixture) {
	app := newAppID()
	var all []store.Event
	for range 7 {
		all = append(all, f.receiveOne(app))
	}
	before := f.Now()
	var got []store.Claimed
	for _, n := range []int{3, 3, 1, 0} {
		claimed := f.claim(app, 3, lease)
		if len(claimed) != n {
			f.Fatalf("%d events were claimed, want %d", len(claimed), n)
		}
		got = append(got, claimed...)
	}
	after := f.Now()
	slices.SortFunc(got, func(a, b store.Claimed) int { return slices.Index(ids(all), a.ID) - slices.Index(ids(all), b.ID) })
	f.wantSame("claimed events", ids(got), ids(all))
	for i, c := range got {
		f.wantSame("claimed event", c.Event, all[i])
		if c.Until.Before(before.Add(lease-time.Millisecond)) || c.Until.After(after.Add(lease+time.Millisecond)) {
			f.Errorf("a claim of %v between %v and %v ends at %v", lease, before, after, c.Until)
		}
	}
}

func longestDueFirst(f *fixture) {
	app := newAppID()
	var all []store.Event
	for range 6 {
		all = append(all, f.receiveOne(app))
		f.Advance(10 * time.Millisecond)
	}
	// The first to come has failed and is due again after the last.
	first := f.claim(app, 1, lease)[0]
	at := f.Now().Add(brief).UTC().Truncate(time.Millisecond)
	f.settle(first, store.Attempt{Result: store.Failed, NextAttemptAt: at, Error: "503"})
	f.pass()
	f.wantSame("first claim", ids(f.claim(app, 2, lease)), ids(all[1:3]))
	f.wantSame("second claim", ids(f.claim(app, 9, lease)), ids(append(all[3:], all[0])))
}

func claimKeeps(f *fixture) {
	e := f.receiveOne(newAppID())
	f.claimOne(e.App, lease)
	f.wantClaim(e.App, 10, lease)
	f.wantSame("event", f.event(e.ID), e)
	f.wantEvents(store.EventFilter{State: store.Pending}, e)
	if !f.realTime {
		f.Advance(lease - time.Millisecond)
		f.wantClaim(e.App, 10, lease)
		f.Advance(2 * time.Millisecond)
		f.wantClaim(e.App, 10, lease, e)
	}
}

func claimRunsOut(f *fixture) {
	app := newAppID()
	one, other := f.receiveOne(app), f.receiveOne(app)
	for range 3 {
		f.wantSame("claimed events", len(f.claim(app, 10, brief)), 2)
		f.pass()
	}
	for _, c := range f.claim(app, 10, lease) {
		want := one
		if c.ID == other.ID {
			want = other
		}
		f.wantSame("event whose claims ran out", c.Event, want)
	}
	f.wantClaim(app, 10, lease)
}

func claimTokens(f *fixture) {
	app := newAppID()
	f.receive(newEvents(app, 3)...)
	seen := make(map[string]bool)
	for range 3 {
		for _, c := range f.claim(app, 10, brief) {
			key := string(c.ID) + " " + c.Token
			if seen[key] {
				f.Errorf("two claims of one event have the token %q", c.Token)
			}
			seen[key] = true
		}
		f.pass()
	}
	f.wantSame("claims", len(seen), 9)
}

func notDueNotClaimed(f *fixture) {
	app := newAppID()
	late, soon := f.receiveOne(app), f.receiveOne(app)
	next := f.inAnHour()
	for _, c := range f.claim(app, 10, lease) {
		at := next
		if c.ID == soon.ID {
			at = f.Now().Add(brief)
		}
		f.settle(c, store.Attempt{Result: store.Failed, NextAttemptAt: at, Error: "503"})
	}
	if !f.realTime {
		f.wantClaim(app, 10, lease)
		f.Advance(brief - time.Millisecond)
		f.wantClaim(app, 10, lease)
		f.Advance(2 * time.Millisecond)
	}
	f.pass()
	f.wantClaim(app, 10, lease, soon)
	f.restart()
	f.wantSame("when it is due", f.event(late.ID).NextAttemptAt, next)
	if !f.realTime {
		f.Advance(next.Sub(f.Now()) - time.Millisecond)
		f.wantClaim(app, 10, 2*time.Hour, soon) // whose claim has run out
		f.wantNext(app, next)
		f.Advance(time.Millisecond)
		f.wantClaim(app, 10, lease, late)
	}
}

func claimTellsNext(f *fixture) {
	app := newAppID()
	f.wantNext(app, time.Time{})
	var all []store.Event
	for range 3 {
		all = append(all, f.receiveOne(app))
		f.Advance(10 * time.Millisecond)
	}
	one, next := f.claimNext(app, 1, lease)
	f.wantSame("next where more is due", next, all[1].NextAttemptAt)
	rest, next := f.claimNext(app, 2, lease)
	f.wantSame("next where all are claimed", next, time.Time{})
	f.wantNext(app, time.Time{})

	later := f.inAnHour()
	f.settle(one[0], store.Attempt{Result: store.Failed, NextAttemptAt: later.Add(time.Hour), Error: "503"})
	f.wantNext(app, later.Add(time.Hour))
	f.settle(rest[1], store.Attempt{Result: store.Failed, NextAttemptAt: later, Error: "503"})
	f.wantNext(app, later)
	f.settle(rest[0], store.Attempt{Result: store.Returned})
	again, next := f.claimNext(app, 1, brief)
	f.wantSame("next where the others are due later", next, later)
	f.pass()
	f.wantClaim(app, 1, lease, again[0].Event)
	f.wantNext(app, later)
}

func claimIsSmall(f *fixture) {
	const size = 300 << 10
	app := newAppID()
	for range 10 {
		e := newEvent(app)
		e.Payload = make([]byte, size)
		f.receive(e)
	}
	for left := 10; left > 0; {
		claimed, next := f.claimNext(app, 10, lease)
		n := len(claimed)
		if n == 0 || n*size > store.ClaimSize+size {
			f.Fatalf("%d payloads of %d bytes were claimed at once", n, size)
		}
		if left -= n; next.IsZero() != (left == 0) {
			f.Errorf("with %d events left, the next is due at %v", left, next)
		}
	}
	// Many small ones are no large ones.
	small := newAppID()
	f.receive(newEvents(small, 200)...)
	f.wantSame("small events in a claim", len(f.claim(small, 150, lease)), 150)
}

func largeIsClaimed(f *fixture) {
	app := newAppID()
	var all []store.Event
	for range 3 {
		e := newEvent(app)
		e.Payload = make([]byte, 3*store.ClaimSize)
		f.receive(e)
		all = append(all, e)
		f.Advance(10 * time.Millisecond)
	}
	for _, e := range all {
		f.wantClaim(app, 10, lease, e)
	}
}

func claimsLeaveOthers(f *fixture) {
	one, other := newAppID(), newAppID()
	first, second := f.receiveOne(one), f.receiveOne(other)
	f.wantClaim(newAppID(), 10, lease)
	f.wantClaim(one, 10, lease, first)
	f.wantClaim(other, 10, lease, second)
}

// A store may free the claims at once when it is opened again, or keep them.
func claimsOverRestart(f *fixture) {
	e := f.receiveOne(newAppID())
	old := f.claimOne(e.App, brief)
	f.restart()
	f.pass()
	current := f.claimOne(e.App, lease)
	f.wantSame("event", current.Event, e)
	f.settle(old, store.Attempt{Result: store.GivenUp, Error: "410"})
	f.wantSame("event after a stale outcome", f.event(e.ID), e)
	f.settle(current, store.Attempt{Result: store.Delivered})
	f.wantEvents(store.EventFilter{})
}

func claimsAreExclusive(f *fixture) {
	for round := range f.rounds(40) {
		app := newAppID()
		all := newEvents(app, 100)
		f.receive(all...)
		var mu sync.Mutex
		times := make(map[store.EventID]int)
		race(racers, func() bool {
			for range all {
				claimed, _, err := f.Claim(f.Context(), app, 3, lease)
				if err != nil {
					f.Error(err)
				}
				if len(claimed) == 0 {
					break
				}
				mu.Lock()
				for _, c := range claimed {
					times[c.ID]++
				}
				mu.Unlock()
			}
			return true
		})
		for _, e := range all {
			if times[e.ID] != 1 {
				f.Fatalf("round %d: an event was claimed %d times", round, times[e.ID])
			}
		}
	}
}

// Whoever wakes up when an event was received finds it, or somebody has it.
func claimWhileReceiving(f *fixture) {
	apps := []tenant.AppID{newAppID(), newAppID()}
	var mu sync.Mutex
	received, delivered := make(map[store.EventID]bool), make(map[store.EventID]int)
	crowd(f.rounds(400), func(i int) {
		app := apps[i%2]
		batch := newEvents(app, 1+i%4)
		mu.Lock()
		for _, e := range batch {
			received[e.ID] = true
		}
		mu.Unlock()
		if _, err := f.Receive(f.Context(), batch, nil); err != nil {
			f.Error(err)
		}
		claimed, _, err := f.Claim(f.Context(), app, 1+i%5, lease)
		if err != nil {
			f.Error(err)
		}
		for _, c := range claimed {
			mu.Lock()
			delivered[c.ID]++
			mu.Unlock()
			if err := f.Settle(f.Context(), c, store.Attempt{Result: store.Delivered}); err != nil {
				f.Error(err)
			}
		}
	})
	for _, app := range apps {
		for _, c := range f.claim(app, len(received), lease) {
			delivered[c.ID]++
		}
	}
	for id := range received {
		if delivered[id] != 1 {
			f.Fatalf("an event was claimed %d times", delivered[id])
		}
	}
	f.wantSame("claimed events", len(delivered), len(received))
}
