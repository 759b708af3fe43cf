package redis

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// together has all of these run as one convoy, behind a request that is under way and changes nothing.
func (b *books) together(s *Store, w *wire, all []func()) {
	t := b.t
	t.Helper()
	first := w.holdFirst(t, ofSends)
	var running sync.WaitGroup
	running.Go(func() {
		a := b.admission()
		a.Mode = store.Check
		_, err := s.Admit(t.Context(), a)
		succeeds(t, err)
	})
	<-first.under
	for _, run := range all {
		running.Go(run)
	}
	eventually(t, "all wait", func() bool { return s.theLane().queued() == len(all) })
	first.proceed()
	running.Wait()
	w.heal()
}

// succeeds is for goroutines, which may not end a test.
func succeeds(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

// Requests that are one run of a script come to what they come to one by one, whatever
// becomes of the others.
func TestRequestsOfOneRunDoNotHinderOneAnother(t *testing.T) {
	t.Parallel()
	for name, inOnePlace := range map[string]bool{"in one place": true, "in several": false} {
		for key, spoiltKey := range map[string]func(*Store, tenant.AccountID) string{
			"wallet": (*Store).wallet,                                                                                    // which is read
			"ledger": func(s *Store, id tenant.AccountID) string { return s.base(placeOf(id)) + "ledger:" + string(id) }, // which is written behind others
		} {
			t.Run(name+", a spoilt "+key, func(t *testing.T) {
				t.Parallel()
				hinderNot(t, inOnePlace, spoiltKey)
			})
		}
	}
}

func hinderNot(t *testing.T, inOnePlace bool, spoiltKey func(*Store, tenant.AccountID) string) {
	server := redistest.Start(t, "appendfsync no")
	b, s, w := onLaneOf(t, server, patience, time.Hour)
	const each = 3 // of each account, in turn
	rich := b.neighbour(inOnePlace, 9_000_000_000_000_000_001)
	poor := b.neighbour(inOnePlace, 1)
	spoilt := b.neighbour(inOnePlace, testFee)
	limited := b.neighbour(inOnePlace, 100*testFee)
	all := []*books{b, rich, poor, spoilt, limited}
	for _, other := range all {
		_, err := s.home(t.Context(), other.admission()) // looked up once
		noError(t, err)
	}
	repair := spoil(t, server, spoiltKey(s, spoilt.account))

	var mu sync.Mutex
	verdicts := make(map[*books]map[store.Verdict]int)
	held := make(map[*books][]store.HoldID)
	failed := 0
	var steps []func()
	for range each {
		for _, other := range all {
			verdicts[other] = make(map[store.Verdict]int)
			a := other.admission()
			if other == limited {
				a.Limits = tenant.RateLimit{PerSecond: each - 1, PerMinute: each - 1}
			}
			steps = append(steps, func() {
				d, err := s.Admit(t.Context(), a)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case other == spoilt && err != nil && !ours(err):
					failed++
				case err != nil || other == spoilt:
					t.Errorf("%+v, %v", d, err)
				default:
					if verdicts[other][d.Verdict]++; d.Verdict == store.Admitted {
						held[other] = append(held[other], a.HoldID)
					}
				}
			})
		}
	}
	b.together(s, w, steps)
	if verdicts[b][store.Admitted] != each || verdicts[rich][store.Admitted] != each || failed != each {
		t.Errorf("the verdicts are %v, and %d failed", verdicts, failed)
	}
	if verdicts[poor][store.Admitted] != 1 || verdicts[poor][store.NoBalance] != each-1 {
		t.Errorf("who has the money for one has the verdicts %v", verdicts[poor])
	}
	if verdicts[limited][store.Admitted] != each-1 || verdicts[limited][store.OverMinute] != 1 {
		t.Errorf("who may send %d has the verdicts %v", each-1, verdicts[limited])
	}
	repair()
	s.nothingLeft(t)

	b.together(s, w, b.settling(t, s, held))
	b.wantHolds(1+each-1, 1, 0)
	rich.wantHolds(each, 0, 0)
	poor.wantHolds(1, 0, 0)
	spoilt.wantHolds(0, 0, 0)
	limited.wantHolds(each-1, 0, 0)
	if balance, err := s.Balance(t.Context(), rich.account); err != nil || balance.Captured != pricing.Micros(each)*testFee {
		t.Errorf("the balance is %+v, %v", balance, err)
	}
}

// settling are steps that release one hold of the account, capture all others, and one that there is not.
func (b *books) settling(t *testing.T, s *Store, held map[*books][]store.HoldID) (steps []func()) {
	for other, ids := range held {
		for i, id := range ids {
			if other == b && i == 0 {
				steps = append(steps, func() { succeeds(t, s.Release(t.Context(), id)) })
				continue
			}
			steps = append(steps, func() { succeeds(t, s.Capture(t.Context(), id, messageOf(id))) })
		}
	}
	unknown := store.NewHoldIDFor(b.account)
	steps = append(steps, func() {
		if err := s.Capture(t.Context(), unknown, ""); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("the capture of no hold is answered %v", err)
		}
	})
	return steps
}
