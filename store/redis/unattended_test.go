package redis

import (
	"errors"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
)

// patiently captures a hold without waiting for it, and then waits for what is told.
func (s *Store) patiently(id store.HoldID) error {
	done := make(chan error, 2)
	s.CapturePatiently(id, messageOf(id), func(err error) { done <- err })
	return <-done
}

// Whatever is told with an error, can be asked for again.
func TestWhatBecomesOfAnUnattendedCaptureIsTold(t *testing.T) {
	t.Parallel()
	b, s, w := onLane(t, short, time.Hour) // which has captured one hold
	captured, released, lost := b.hold(s), b.hold(s), b.hold(s)
	noError(t, s.Capture(t.Context(), captured, messageOf(captured)))
	noError(t, s.Release(t.Context(), released))
	if err := s.patiently(captured); err != nil {
		t.Errorf("of one that is captured already: %v", err)
	}
	for what, id := range map[string]store.HoldID{"one that is released": released, "one that nobody has made": store.NewHoldIDFor(b.account), "no hold": "hold_1"} {
		if err := s.patiently(id); err == nil {
			t.Errorf("of %s: nothing", what)
		}
	}
	w.decide(func([]byte) fate { return lostAfter })
	if err := s.patiently(lost); err == nil || store.Answered(err) {
		t.Errorf("of one whose answer is lost: %v", err)
	}
	w.heal()
	noError(t, s.Capture(t.Context(), lost, messageOf(lost)))
	b.wantHolds(3, 1, 0)
	noError(t, s.Close())
	if err := s.patiently(lost); !errors.Is(err, store.ErrClosed) {
		t.Errorf("of a store that is closed: %v", err)
	}
}

func TestClosingWaitsForUnattendedCaptures(t *testing.T) {
	t.Parallel()
	b, s, _ := onLane(t, patience, time.Hour)
	id := b.hold(s)
	told := make(chan error, 1)
	s.CapturePatiently(id, messageOf(id), func(err error) { told <- err })
	noError(t, s.Close())
	select {
	case err := <-told:
		noError(t, err)
	default:
		t.Error("it was not told yet")
	}
	b.wantHolds(2, 0, 0)
}

// Those who wait send for those that nobody waits for, and are not kept by them.
func TestWhoWaitsLeadsAndKeepsItsTime(t *testing.T) {
	t.Parallel()
	now := time.Now()
	inTime := func(after time.Duration, done func(answer)) *job {
		j := newJob()
		j.deadline, j.queued, j.done = now.Add(after), true, done
		return j
	}
	unattended := inTime(time.Hour, func(answer) {})
	early, late := inTime(time.Minute, nil), inTime(2*time.Minute, nil)
	for _, waiting := range [][]*job{{unattended, early, late}, {late, unattended, early}, {early, late, unattended}} {
		l := &lane{waiting: waiting, urgent: 3}
		l.appointNext()
		if !late.leads {
			t.Fatal("the one with the most time of those who wait does not lead")
		}
		<-late.turn
		if b := l.take(late); len(b.jobs) != 3 || !b.deadline.Equal(late.deadline) {
			t.Errorf("%d are sent, in %v", len(b.jobs), b.deadline.Sub(now))
		}
		late.leads, early.queued, late.queued, unattended.queued = false, true, true, true
	}
	if b := (&lane{waiting: []*job{early, unattended}}).take(unattended); !b.deadline.Equal(unattended.deadline) {
		t.Errorf("one that leads itself has %v", b.deadline.Sub(now))
	}
}
