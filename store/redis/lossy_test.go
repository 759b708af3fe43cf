package redis

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// dice are random numbers that any number of goroutines draw.
type dice struct {
	mu sync.Mutex
	*rand.Rand
}

func (d *dice) below(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.IntN(n)
}

// losses decides for each thing that is sent: of 20, three are not sent and five not
// answered.
func (d *dice) losses([]byte) fate {
	switch n := d.below(20); {
	case n < 3:
		return lostBefore
	case n < 8:
		return lostAfter
	}
	return arrives
}

// lossy is gateways that lose much of what they send, or its answer, and what they
// were asked for.
type lossy struct {
	*books
	*dice
	gateways []*Store
	payers   []*books // one of which gets all the credits

	mu sync.Mutex
	// sent are the holds that were captured in the end, by the id that is.
	sent     map[store.HoldID]bool
	released map[store.HoldID]bool
	credited pricing.Micros
	version  int64
}

func (l *lossy) any() *Store { return l.gateways[l.below(len(l.gateways))] }

// insist repeats a step until there is an answer, as the journal does.
func (l *lossy) insist(what string, step func(s *Store) error) error {
	for deadline := time.Now().Add(time.Minute); ; {
		err := step(l.any())
		if err == nil || ours(err) {
			return err
		}
		if time.Now().After(deadline) {
			l.t.Errorf("%s: there is no answer: %v", what, err)
			return err
		}
	}
}

// must is a step whose answer is no error.
func (l *lossy) must(what string, step func(s *Store) error) {
	if err := l.insist(what, step); err != nil {
		l.t.Errorf("%s: %v", what, err)
	}
}

// credit makes the same credit twice.
func (l *lossy) credit(operation string) {
	for range 2 {
		l.must("credit", func(s *Store) error {
			_, err := s.Credit(context.Background(), l.account, 7, operation)
			return err
		})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.credited += 7
}

// follow names the next total, which others may have overtaken.
func (l *lossy) follow() {
	l.mu.Lock()
	l.version++
	total := store.Total{Account: l.account, Currency: "USD", Credited: pricing.Micros(3 * l.version), Version: l.version}
	l.mu.Unlock()
	l.must("follow", func(s *Store) error { return s.Follow(context.Background(), total) })
}

// send makes a hold and settles it, in one of the ways that there are.
func (l *lossy) send() {
	a := l.payers[l.below(len(l.payers))].admission()
	s := l.any()
	if d, err := s.Admit(context.Background(), a); err != nil || d.Verdict != store.Admitted {
		return
	}
	// Only the gateway that has made a hold knows it in a failover; here any may settle it.
	release := func(s *Store) error { return s.Release(context.Background(), a.HoldID) }
	capture := func(s *Store) error { return s.Capture(context.Background(), a.HoldID, messageOf(a.HoldID)) }
	status := func(s *Store) error {
		_, err := s.Receive(context.Background(), nil, delivered(messageOf(a.HoldID), a.HoldID))
		return err
	}
	captured := a.HoldID
	switch l.below(4) {
	case 0:
		l.must("release", release)
		captured = ""
	case 1: // it was in doubt, was given back, and then proves to have been sent
		l.must("release", release)
		l.must("status", status)
		if err := l.insist("capture", capture); !errors.Is(err, store.ErrConflict) {
			l.t.Errorf("a capture of what was released is answered %v", err)
		}
		captured = a.HoldID.Again()
	case 2:
		l.must("status", status)
		l.must("capture", capture)
	default:
		l.must("capture", capture)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if captured != "" {
		l.sent[captured] = true
	}
	if captured != a.HoldID {
		l.released[a.HoldID] = true
	}
}

// audit is that of all payers: the holds that were charged and those that were given back, and how many are open.
func (l *lossy) audit() (charged, returned map[store.HoldID]bool, open int) {
	charged, returned = make(map[store.HoldID]bool), make(map[store.HoldID]bool)
	for _, payer := range l.payers {
		st := payer.audit()
		for id := range st.Captured {
			charged[id] = true
		}
		for id := range st.Released {
			returned[id] = true
		}
		open += len(st.Open)
	}
	return charged, returned, open
}

// Whatever is lost on the way, a message that was sent is charged once, a credit counts
// once, and a hold that was not answered for is given back.
func TestMoneyIsRightWhateverIsLost(t *testing.T) {
	t.Parallel()
	const senders, steps = 9, 60
	server := redistest.Start(t, "appendfsync no")
	o := testOptions(t, "single", "", server.URL())
	seed := rand.Uint64()
	t.Logf("the seed is %d", seed)
	var w wire
	l := &lossy{
		books: newBooks(t, o), dice: &dice{Rand: rand.New(rand.NewPCG(seed, seed))},
		sent: make(map[store.HoldID]bool), released: make(map[store.HoldID]bool),
	}
	l.payers = append(l.neighbours(2, 1_000*testFee), l.books)
	o.Timeout, o.Serving = 100*time.Millisecond, false // some steps fail, others succeed when they are repeated
	for range 3 {
		l.gateways = append(l.gateways, open(t, w.under(o)))
	}
	w.decide(l.losses)
	var running sync.WaitGroup
	for i := range senders {
		running.Go(func() {
			for j := range steps {
				switch l.below(8) {
				case 0:
					l.credit(fmt.Sprintf("operation %d of %d", j, i))
				case 1:
					l.follow()
				default:
					l.send()
				}
			}
		})
	}
	running.Wait()
	w.heal()
	for _, s := range l.gateways {
		s.nothingLeft(t)
		noError(t, s.Close()) // which waits for what is under way
	}

	charged, returned, open := l.audit()
	for id := range l.sent {
		if !charged[id] {
			t.Error("a message that was sent is not charged")
		}
	}
	for id := range l.released {
		if !returned[id] {
			t.Error("a hold that was released is not given back")
		}
	}
	if len(charged) != len(l.sent) || open > 0 {
		t.Errorf("%d messages were sent and %d charged; %d holds are open", len(l.sent), len(charged), open)
	}
	want := fmt.Sprint([]any{int64(1_000_000*testFee+l.credited) + 3*l.version})
	if got := command(t, server, "HMGET", l.wallet(l.account), "credited"); fmt.Sprint(got) != want {
		t.Errorf("%v were credited, want %v", got, want)
	}
	t.Logf("%d sent, %d given back, of which %d had not been answered for", len(l.sent), len(returned), len(returned)-len(l.released))
}

// The first attempt leaves nothing behind, or its own value: neither is somebody else's.
func TestAnAttemptThatWasLostIsNoConflict(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "appendfsync no")
	for name, lost := range map[string]fate{"lost before": lostBefore, "lost after": lostAfter} {
		for what, step := range map[string]func(*Store, *books) error{
			"credit": func(s *Store, b *books) error {
				_, err := s.Credit(t.Context(), b.account, testFee, "operation")
				return err
			},
			"pepper": func(s *Store, _ *books) error { return s.BindPepper(t.Context(), "fingerprint") },
			"app":    func(s *Store, _ *books) error { return s.CreateApp(t.Context(), tenant.App{ID: "app_new"}) },
		} {
			t.Run(what+" "+name, func(t *testing.T) {
				o := testOptions(t, "single", "", server.URL())
				b := newBooks(t, o)
				o.Serving = false
				var w wire
				s := open(t, w.under(o))
				var sets int
				w.decide(func(sent []byte) fate {
					if !bytes.Contains(sent, []byte("\r\nset\r\n")) {
						return arrives
					}
					if sets++; sets > 1 {
						return arrives
					}
					return lost
				})
				noError(t, step(s, b))
				if sets < 2 {
					t.Errorf("%d attempts were made, the first of which is lost", sets)
				}
				w.heal()
				if what != "app" { // which is known then
					noError(t, step(s, b))
				}
				b.audit()
			})
		}
	}
}

// go-redis's client of a Cluster has no setting for that, and a script is not its to repeat.
func TestAClusterIsNotAskedAgainByTheClient(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	o := testOptions(t, "cluster", "", cluster.URLs()...)
	b := newBooks(t, o)
	b.hold(b.Store) // the script is known
	var w wire
	o.Serving = false
	s := open(t, w.under(o))
	a := b.admission()
	a.Mode, a.HoldID = store.Count, ""
	p := placeOf(b.account)
	left := func() int {
		t.Helper()
		d, err := b.decide(t.Context(), p, store.Check, true, false, a)
		noError(t, err)
		return d.Minute.Remaining
	}
	for name, lost := range map[string]fate{"lost before": lostBefore, "lost after": lostAfter} {
		before := left()
		var attempts int
		w.decide(func(sent []byte) fate {
			if !admitScript.runs(sent) {
				return arrives
			}
			attempts++
			return lost
		})
		s.away.Store(true) // the store itself tries once, then
		_, err := s.decide(t.Context(), p, store.Count, true, false, a)
		if away := (awayError{}); !errors.As(err, &away) || !away.sent {
			t.Errorf("%s: error %v, want that it may have been sent", name, err)
		}
		w.heal()
		counted := before - left()
		if attempts != 1 || counted > 1 || lost == lostAfter && counted != 1 {
			t.Errorf("%s: it was sent %d times and counted %d times", name, attempts, counted)
		}
	}
}
