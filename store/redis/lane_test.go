package redis

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
)

// onLane is a store over a wire, whose sends wait in a queue for as long as the test
// says, and an account for which everything is known that is looked up once.
func onLane(t *testing.T, timeout, queued time.Duration) (*books, *Store, *wire) {
	t.Helper()
	return onLaneOf(t, redistest.Start(t, "appendfsync no"), timeout, queued)
}

func onLaneOf(t *testing.T, server *redistest.Server, timeout, queued time.Duration) (*books, *Store, *wire) {
	t.Helper()
	o := testOptions(t, "single", "", server.URL())
	b := newBooks(t, o)
	w := new(wire)
	o.Timeout, o.Serving = timeout, false
	s := open(t, w.under(o))
	s.lanes.maxQueued = queued
	id := b.hold(s)
	noError(t, s.Capture(t.Context(), id, messageOf(id)))
	return b, s, w
}

// theLane is that of a store on one server.
func (s *Store) theLane() *lane { return s.lanes.to(s.client.(*goredis.Client)) }

// queued tells how many jobs wait to be sent.
func (l *lane) queued() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting)
}

func TestWhatWaitsForAnAnswerIsSentTogether(t *testing.T) {
	t.Parallel()
	const more = 20
	b, s, w := onLane(t, patience, time.Hour)
	var writes int
	first, all := make(chan struct{}), make(chan struct{})
	w.decide(func([]byte) fate {
		if writes++; writes == 1 {
			close(first)
			<-all
		}
		return arrives
	})
	var senders sync.WaitGroup
	send := func() {
		senders.Go(func() {
			d, err := s.Admit(t.Context(), b.admission())
			if err != nil || d.Verdict != store.Admitted {
				t.Errorf("%+v, %v", d, err)
			}
		})
	}
	send()
	<-first
	for range more {
		send()
	}
	eventually(t, "all wait", func() bool { return s.theLane().queued() == more })
	close(all)
	senders.Wait()
	if writes != 2 {
		t.Errorf("%d sends at once took %d writes behind the first", more, writes-1)
	}
	b.wantHolds(1, 0, 1+more)
}

// One connection that hangs, or a long way to Redis, costs nobody else more than a moment.
func TestAScriptOvertakesThoseThatHang(t *testing.T) {
	t.Parallel()
	b, s, w := onLane(t, 3*short, maxQueued)
	hangs := make(chan struct{})
	var once sync.Once
	w.decide(func([]byte) (f fate) {
		once.Do(func() { f = heldUp; close(hangs) })
		return f
	})
	failed := make(chan error, 1)
	go func() {
		_, err := s.Admit(t.Context(), b.admission())
		failed <- err
	}()
	<-hangs
	for range 3 {
		b.hold(s)
	}
	select {
	case err := <-failed:
		t.Errorf("nothing has overtaken the first: %v", err)
	default:
	}
	var away awayError
	if err := <-failed; !errors.As(err, &away) || !away.sent {
		t.Errorf("what was not answered fails with %v", err)
	}
}

func TestWhatIsGivenUpInTheQueueIsNeverSent(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		timeout time.Duration
		end     func(cancel context.CancelFunc)
		want    func(error) bool
	}{
		"by its caller": {patience, func(cancel context.CancelFunc) { cancel() }, func(err error) bool { return errors.Is(err, context.Canceled) }},
		"in time": {short, func(context.CancelFunc) {}, func(err error) bool {
			var away awayError
			return errors.As(err, &away) && !away.sent && timedOut(err)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, s, w := onLane(t, row.timeout, time.Hour)
			ahead, lost := b.admission(), b.admission()
			hangs, heal := make(chan struct{}), make(chan struct{})
			w.decide(func(sent []byte) fate {
				if admitScript.runs(sent) && bytes.Contains(sent, []byte(lost.HoldID)) {
					t.Error("it was sent")
				}
				if admitScript.runs(sent) && bytes.Contains(sent, []byte(ahead.HoldID)) {
					close(hangs)
					<-heal
				}
				return arrives
			})
			var senders sync.WaitGroup
			senders.Go(func() { _, _ = s.Admit(t.Context(), ahead) })
			<-hangs
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			failed := make(chan error, 1)
			go func() {
				_, err := s.decide(ctx, placeOf(lost.Account), lost.Mode, true, true, lost)
				failed <- err
			}()
			eventually(t, "it waits, or has waited", func() bool { return s.theLane().queued() == 1 || len(failed) == 1 })
			row.end(cancel)
			if err := <-failed; !row.want(err) {
				t.Errorf("it fails with %v", err)
			}
			close(heal)
			senders.Wait()
			b.hold(s) // the lane goes on
			if state := b.state(lost.HoldID); state != "" {
				t.Errorf("the hold is %q", state)
			}
		})
	}
}

// Whoever sends for others, too, does not wait as long as those may.
func TestALeaderWithLittleTimeIsRelieved(t *testing.T) {
	t.Parallel()
	b, s, w := onLane(t, patience, time.Hour)
	heal := make(chan struct{})
	w.decide(func(sent []byte) fate {
		if admitScript.runs(sent) {
			<-heal
		}
		return arrives
	})
	l := s.theLane()
	patient := make(chan error, 1)
	l.mu.Lock()
	l.leaders++ // nobody sends yet
	l.mu.Unlock()
	go func() {
		_, err := s.Admit(t.Context(), b.admission())
		patient <- err
	}()
	eventually(t, "it waits", func() bool { return l.queued() == 1 })
	l.mu.Lock()
	l.leaders--
	l.mu.Unlock()
	hasty, cancel := context.WithTimeout(t.Context(), short)
	defer cancel()
	if _, err := s.Admit(hasty, b.admission()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the one with little time is answered %v", err)
	}
	close(heal)
	noError(t, <-patient)
}

func TestScriptsThatAreNotKnownAreSentOnceMore(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "appendfsync no")
	o := testOptions(t, "single", "", server.URL())
	b := newBooks(t, o)
	payers := append(b.neighbours(3, 100*testFee), b)
	const rounds, each = 5, 20
	for range rounds {
		server.FlushScripts()
		var senders sync.WaitGroup
		for i := range each {
			senders.Go(func() {
				a := payers[i%len(payers)].admission()
				if d, err := b.Admit(t.Context(), a); err != nil || d.Verdict != store.Admitted {
					t.Errorf("%+v, %v", d, err)
				}
				if err := b.Capture(t.Context(), a.HoldID, messageOf(a.HoldID)); err != nil {
					t.Error(err)
				}
			})
		}
		senders.Wait()
	}
	charged(payers, rounds*each/len(payers))
}

// patient has a capture of a new hold wait in the lane, and returns what becomes of it.
func (b *books) patient(s *Store) <-chan error {
	id := b.hold(s)
	done := make(chan error, 1)
	go func() { done <- s.patiently(id) }()
	return done
}

func TestACaptureForWhichNobodyWaitsGoesWithTheNextHold(t *testing.T) {
	t.Parallel()
	b, s, w := onLane(t, patience, time.Hour)
	s.theLane().maxAlone = time.Hour
	captured := b.patient(s)
	eventually(t, "it waits", func() bool { return s.theLane().queued() == 1 })
	writes := 0
	w.decide(func([]byte) fate { writes++; return arrives })
	b.hold(s)
	noError(t, <-captured)
	if writes != 1 {
		t.Errorf("both took %d writes", writes)
	}
	b.wantHolds(2, 0, 1)
}

func TestACaptureForWhichNobodyWaitsGoesAloneSoon(t *testing.T) {
	t.Parallel()
	b, s, _ := onLane(t, patience, time.Hour)
	noError(t, <-b.patient(s))
	b.wantHolds(2, 0, 0)
}

func TestManyCapturesNeedNoHoldToGoWith(t *testing.T) {
	t.Parallel()
	b, s, _ := onLane(t, patience, time.Hour)
	s.theLane().maxAlone = time.Hour
	holds := make([]store.HoldID, maxPatient)
	for i := range holds {
		holds[i] = b.hold(s)
	}
	var running sync.WaitGroup
	for _, id := range holds {
		running.Go(func() { succeeds(t, s.patiently(id)) })
	}
	running.Wait()
	b.wantHolds(1+maxPatient, 0, 0)
}

// What comes back while captures alone wait has none of them lead.
func TestCapturesThatWaitBehindAHoldWaitForTheNext(t *testing.T) {
	t.Parallel()
	b, s, w := onLane(t, patience, time.Hour)
	s.theLane().maxAlone = time.Hour
	early, late := b.hold(s), b.hold(s)
	first := w.holdFirst(t, ofSends)
	var running sync.WaitGroup
	running.Go(func() { b.hold(s) })
	<-first.under
	for _, id := range []store.HoldID{early, late} {
		running.Go(func() { succeeds(t, s.patiently(id)) })
	}
	eventually(t, "both wait", func() bool { return s.theLane().queued() == 2 })
	first.proceed()
	eventually(t, "the hold is back", func() bool {
		l := s.theLane()
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.leaders == 0 && len(l.waiting) == 2
	})
	b.hold(s)
	running.Wait()
	if n := first.writes.Load(); n != 2 {
		t.Errorf("two holds and two captures took %d writes", n)
	}
	b.wantHolds(3, 0, 2)
}
