package storetest

import (
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

var attemptChecks = []check{
	{"a returned event is up for claiming as before", returnedIsAsBefore},
	{"a delivered event is gone", deliveredIsGone},
	{"a failed event is due again when told", failedIsDueAgain},
	{"an event that was given up is a dead letter", givenUpIsDead},
	{"a claim that ran out can still be settled", lateOutcome},
	{"a stale claim does nothing but deliver", staleClaim},
	{"an outcome counts once", outcomeCountsOnce},
	{"settling what is gone is no error", settlingGone},
	{"racing outcomes of one claim count once", racingAttempts},
}

// undelivered are the attempts that leave the event in the outbox.
func (f *fixture) undelivered() []store.Attempt {
	return []store.Attempt{
		{Result: store.Returned},
		{Result: store.Failed, NextAttemptAt: f.inAnHour(), Error: "503"},
		{Result: store.GivenUp, Error: "410"},
	}
}

func returnedIsAsBefore(f *fixture) {
	app := newAppID()
	e := f.receiveOne(app)
	for range 3 {
		f.settle(f.claimOne(app, lease), store.Attempt{Result: store.Returned, NextAttemptAt: f.inAnHour(), Error: "not this"})
		f.wantSame("event", f.event(e.ID), e)
	}
	f.settle(f.claimOne(app, lease), store.Attempt{Result: store.Failed, NextAttemptAt: f.Now(), Error: "503"})
	f.Advance(time.Millisecond)
	failed := f.event(e.ID)
	f.settle(f.claimOne(app, lease), store.Attempt{Result: store.Returned})
	f.wantSame("event that has failed before", f.event(e.ID), failed)
	f.restart()
	f.wantSame("claimed event", f.claimOne(app, lease).Event, failed)
}

func deliveredIsGone(f *fixture) {
	app := newAppID()
	e, other := f.receiveOne(app), f.receiveOne(newAppID())
	f.settle(f.claimOne(app, lease), store.Attempt{Result: store.Delivered})
	for range 2 { // the second time after a restart
		_, err := f.Event(f.Context(), e.ID)
		f.wantError("Event", err, store.ErrNotFound)
		f.wantEvents(store.EventFilter{}, other)
		f.wantSame("backlog", f.backlog(), map[tenant.AppID]time.Time{other.App: other.NextAttemptAt})
		f.wantNext(app, time.Time{})
		_, err = f.Replay(f.Context(), []store.EventID{e.ID}, "")
		f.wantError("Replay", err, store.ErrNotFound)
		f.restart()
	}
}

func failedIsDueAgain(f *fixture) {
	app := newAppID()
	want := f.receiveOne(app)
	for i, reason := range []string{"timeout after 5s", "", "status 500: ü"} {
		at := f.Now().Add(brief).UTC().Truncate(time.Millisecond)
		f.settle(f.claimOne(app, lease), store.Attempt{Result: store.Failed, NextAttemptAt: at, Error: reason})
		want.Attempts, want.NextAttemptAt, want.LastError = i+1, at, reason
		f.wantSame("event", f.event(want.ID), want)
		if i == 1 {
			f.restart()
		}
		f.pass()
	}
	f.wantSame("claimed event", f.claimOne(app, lease).Event, want)
}

func givenUpIsDead(f *fixture) {
	app := newAppID()
	want := f.receiveOne(app)
	f.settle(f.claimOne(app, lease), store.Attempt{Result: store.Failed, NextAttemptAt: f.Now(), Error: "503"})
	f.Advance(time.Millisecond)
	f.settle(f.claimOne(app, lease), store.Attempt{Result: store.GivenUp, NextAttemptAt: f.inAnHour(), Error: "status 410"})
	want.State, want.Attempts, want.NextAttemptAt, want.LastError = store.Dead, 2, time.Time{}, "status 410"
	for range 2 { // the second time after a restart
		f.wantSame("event", f.event(want.ID), want)
		f.wantSame("backlog", f.backlog(), map[tenant.AppID]time.Time{})
		f.wantNext(app, time.Time{})
		f.restart()
	}
}

// Nobody else has claimed it since.
func lateOutcome(f *fixture) {
	for _, a := range f.undelivered() {
		app := newAppID()
		want := f.receiveOne(app)
		c := f.claimOne(app, brief)
		f.pass()
		f.settle(c, a)
		switch a.Result {
		case store.Failed:
			want.Attempts, want.NextAttemptAt, want.LastError = 1, a.NextAttemptAt, a.Error
		case store.GivenUp:
			want.State, want.Attempts, want.NextAttemptAt, want.LastError = store.Dead, 1, time.Time{}, a.Error
		}
		f.wantSame("event", f.event(want.ID), want)
	}
}

func staleClaim(f *fixture) {
	for _, a := range f.undelivered() {
		app := newAppID()
		e := f.receiveOne(app)
		old := f.claimOne(app, brief)
		f.pass()
		current := f.claimOne(app, lease)
		f.settle(old, a)
		f.wantSame("event after a stale outcome", f.event(e.ID), e)
		f.wantClaim(app, 10, lease) // it is still the other's
		f.settle(current, store.Attempt{Result: store.Returned})
		f.settle(old, a)
		f.wantSame("event after a stale outcome", f.event(e.ID), e)

		f.settle(f.claimOne(app, lease), a)
		f.settle(old, store.Attempt{Result: store.Delivered})
		_, err := f.Event(f.Context(), e.ID)
		f.wantError("Event that a stale claim has delivered", err, store.ErrNotFound)
	}
}

// An outcome may be told again when it is not known whether the store has it.
func outcomeCountsOnce(f *fixture) {
	for _, a := range f.undelivered() {
		app := newAppID()
		e := f.receiveOne(app)
		c := f.claimOne(app, lease)
		f.settle(c, a)
		want := f.event(e.ID)
		for _, again := range f.undelivered() {
			f.settle(c, again)
			f.wantSame("event after a second outcome", f.event(e.ID), want)
		}
	}
}

func settlingGone(f *fixture) {
	app := newAppID()
	f.receiveOne(app)
	c := f.claimOne(app, lease)
	delivered := store.Attempt{Result: store.Delivered}
	f.settle(c, delivered)
	for _, a := range append(f.undelivered(), delivered) {
		f.settle(c, a)
		f.wantEvents(store.EventFilter{})
	}
}

func racingAttempts(f *fixture) {
	for range f.rounds(40) {
		app := newAppID()
		e := f.receiveOne(app)
		c := f.claimOne(app, lease)
		a := store.Attempt{Result: store.Failed, NextAttemptAt: f.inAnHour(), Error: "503"}
		race(16, func() bool {
			if err := f.Settle(f.Context(), c, a); err != nil {
				f.Error(err)
			}
			return true
		})
		f.wantSame("attempts", f.event(e.ID).Attempts, 1)
	}
}
