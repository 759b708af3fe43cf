package redis

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/linger"
)

// crowded is a lane whose last convoy was a crowd, behind which the next one keeps that distance, and a hold.
func crowded(t *testing.T, apart time.Duration) (*books, *Store, *wire, store.HoldID) {
	t.Helper()
	b, s, w := onLane(t, patience, time.Hour)
	held := b.hold(s)
	var steps []func()
	for range crowd {
		steps = append(steps, func() { b.hold(s) })
	}
	b.together(s, w, steps)
	s.theLane().apart = linger.New(apart, apart)
	return b, s, w, held
}

// rests tells whether a job is to lead when it has rested.
func (l *lane) rests() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.resting != nil
}

func TestAConvoyWaitsForThoseOfTheLast(t *testing.T) {
	t.Parallel()
	b, s, w, held := crowded(t, time.Hour)
	s.theLane().maxAlone = time.Hour
	first := w.holdFirst(t, ofSends)
	first.proceed()
	var running sync.WaitGroup
	running.Go(func() { succeeds(t, s.patiently(held)) })
	eventually(t, "a capture waits", func() bool { return s.theLane().queued() == 1 })
	running.Go(func() { b.hold(s) })
	eventually(t, "it rests", s.theLane().rests)
	for range crowd - 2 {
		running.Go(func() { b.hold(s) })
	}
	eventually(t, "all wait", func() bool { return s.theLane().queued() == crowd })
	if n := first.writes.Load(); n != 0 {
		t.Errorf("%d writes were made", n)
	}
	b.hold(s)
	running.Wait()
	if n := first.writes.Load(); n != 1 {
		t.Errorf("%d holds and a capture took %d writes", crowd, n)
	}
}

// Whoever came while a convoy was under way waits for those who were in it.
func TestWhoCameMeanwhileWaitsForThoseOfTheLast(t *testing.T) {
	t.Parallel()
	b, s, w := onLane(t, patience, time.Hour)
	s.theLane().apart = linger.New(time.Hour, time.Hour)
	first := w.holdFirst(t, ofSends)
	var running sync.WaitGroup
	running.Go(func() { b.hold(s) })
	<-first.under
	for range crowd - 1 {
		running.Go(func() { b.hold(s) })
	}
	eventually(t, "all wait", func() bool { return s.theLane().queued() == crowd-1 })
	first.proceed()
	eventually(t, "one of them rests", s.theLane().rests)
	b.hold(s) // as the first one's sender might
	running.Wait()
	if n := first.writes.Load(); n != 2 {
		t.Errorf("%d holds took %d writes", crowd+1, n)
	}
}

func TestEnoughJobsWaitForNoMore(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		expected, urgent, patient int
		want                      bool
	}{
		"fewer than are expected":          {expected: crowd, urgent: crowd - 1, patient: crowd},
		"as many as are expected":          {expected: crowd, urgent: crowd, want: true},
		"nearly enough":                    {expected: 100, urgent: enough - 1},
		"enough":                           {expected: 100, urgent: enough, want: true},
		"as many as are sent in one write": {expected: 100, patient: maxTogether, want: true},
	} {
		l := &lane{expected: row.expected, urgent: row.urgent, waiting: make([]*job, row.urgent+row.patient)}
		if got := l.crowded(); got != row.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestADistanceIsOverSoon(t *testing.T) {
	t.Parallel()
	b, s, _, _ := crowded(t, 50*time.Millisecond)
	began := s.theLane().began
	b.hold(s)
	if took := time.Since(began); took < 50*time.Millisecond {
		t.Errorf("the next convoy began within %v", took)
	}
	b.hold(s) // the last one was no crowd
}

// A job that is patient no more waits until the rest of the one that is to lead is over, unless it is the last one missing.
func TestWhoLosesPatienceEndsNoRest(t *testing.T) {
	t.Parallel()
	for waiting, rests := range map[int]bool{crowd - 2: true, crowd - 1: false} {
		leader, patient := newJob(), newJob()
		patient.patient, patient.queued, patient.done = true, true, func(answer) {}
		l := &lane{pace: pace{apart: linger.New(time.Hour, time.Hour)}, expected: crowd, urgent: waiting, began: time.Now()}
		l.appoint(leader)
		l.overtake(patient)
		if l.rests() != rests || patient.leads {
			t.Errorf("with %d others: the leader rests: %v; the job leads: %v", waiting, !rests, patient.leads)
		}
	}
}

// Jobs are used again: the time of one that rested before is not that of the next.
func TestNobodyIsWokenByTheLastOnesTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lane{pace: pace{apart: linger.New(maxApart, maxApart)}, expected: crowd}
		j := newJob()
		rest := func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.began = time.Now()
			l.appoint(j)
		}
		rest()
		time.Sleep(maxApart / 2)
		l.mu.Lock()
		l.wake(true)
		l.mu.Unlock()
		<-j.turn
		rest()
		began := time.Now()
		<-j.turn
		if rested := time.Since(began); rested != maxApart {
			t.Errorf("it rested for %v", rested)
		}
	})
}

func TestWhoRestsCanBeGivenUp(t *testing.T) {
	t.Parallel()
	b, s, _, _ := crowded(t, time.Hour)
	l := s.theLane()
	ctx, cancel := context.WithCancel(t.Context())
	given := make(chan error, 1)
	go func() {
		_, err := s.Admit(ctx, b.admission())
		given <- err
	}()
	eventually(t, "it rests", l.rests)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.hold(s)
	}()
	eventually(t, "another one waits", func() bool { return l.queued() == 2 })
	cancel()
	if err := <-given; !errors.Is(err, context.Canceled) {
		t.Errorf("it fails with %v", err)
	}
	eventually(t, "the other one rests", l.rests)
	l.mu.Lock()
	l.wake(true)
	l.mu.Unlock()
	<-done
}

// On a machine that is so busy that a leader waits for a processor, one more would only wait, too.
func TestNobodyOvertakesWhoIsAboutToLead(t *testing.T) {
	t.Parallel()
	waiting, about := newJob(), newJob()
	waiting.queued, about.queued = true, true
	l := &lane{pace: pace{maxQueued: time.Hour}, waiting: []*job{about, waiting}, lag: time.Minute}
	l.appoint(about)
	if wait, queued := l.overtake(waiting); !queued || wait != time.Hour+2*time.Minute || waiting.leads {
		t.Errorf("it waits for another %v, %v; and leads: %v", wait, queued, waiting.leads)
	}
	<-about.turn
	l.take(about)
	if wait, queued := l.overtake(waiting); queued || wait != 0 {
		t.Errorf("who is under way waits for another %v", wait)
	}
}

// A capture that nobody waits for overtakes nobody when it has waited for company, but then waits like any other.
func TestPatienceEndsBehindWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	b, s, w := onLane(t, patience, time.Hour)
	id := b.hold(s)
	first := w.holdFirst(t, ofSends)
	var running sync.WaitGroup
	running.Go(func() { b.hold(s) })
	<-first.under
	running.Go(func() { succeeds(t, s.patiently(id)) })
	l := s.theLane()
	eventually(t, "it is not patient any more", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.waiting) == 1 && l.urgent == 1
	})
	if n := first.writes.Load(); n != 1 {
		t.Errorf("%d writes were made", n)
	}
	first.proceed()
	running.Wait()
	b.wantHolds(2, 0, 1)
}
