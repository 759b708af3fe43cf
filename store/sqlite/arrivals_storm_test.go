package sqlite

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/storetest"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// storm is a gateway's work on events while transactions fail, commands write, and memory is
// dropped.
type storm struct {
	*testing.T
	*Store
	path  string
	clock *storetest.Clock
	tool  *Store // nil: no other process writes
	apps  []tenant.AppID

	mu        sync.Mutex
	left      map[store.EventID]bool // received, and not known to be delivered
	delivered map[store.EventID]bool // the store has said so
	durable   map[store.EventID]bool // the store has said that it is received
	settling  map[store.EventID]bool // the store was told that it is delivered
}

func newStorm(t *testing.T) *storm {
	path, clock := filepath.Join(t.TempDir(), "gateway.db"), storetest.NewClock()
	return &storm{
		T: t, Store: open(t, path, clock.Now), path: path, clock: clock, apps: []tenant.AppID{"app_1", "app_2"},
		left: make(map[store.EventID]bool), delivered: make(map[store.EventID]bool),
		durable: make(map[store.EventID]bool), settling: make(map[store.EventID]bool),
	}
}

func TestNoEventIsLostNorComesBackWhateverFails(t *testing.T) {
	s := newStorm(t)
	s.tool = openTool(t, s.path)
	var tasks sync.WaitGroup
	for range 4 {
		tasks.Go(func() { s.repeat(100, s.receiveSome) })
		tasks.Go(func() { s.repeat(200, s.deliverSome) })
	}
	tasks.Wait()
	s.exec("DROP TRIGGER IF EXISTS full") // the last time may have been undone
	s.clock.Advance(2 * time.Hour)        // all claims have run out, and all retries are due
	for s.deliver(0) > 0 {
	}
	if entered, recent := outboxRows(t, s.Store); entered != 0 || recent != 0 || len(s.left) > 0 {
		t.Errorf("%d events were never claimed; %d and %d rows are left", len(s.left), entered, recent)
	}
}

func (s *storm) repeat(times int, step func()) {
	for range times {
		step()
	}
}

func (s *storm) receiveSome() {
	var events []store.Event
	for range 1 + rand.N(4) {
		e := many(s.apps[rand.N(len(s.apps))], 1)[0]
		if rand.N(8) == 0 {
			e.Payload = make([]byte, maxArrival+1)
		}
		events = append(events, e)
	}
	s.mu.Lock()
	for _, e := range events {
		s.left[e.ID] = true
	}
	s.mu.Unlock()
	for {
		if _, err := s.Receive(context.Background(), events, nil); err == nil {
			s.mu.Lock()
			for _, e := range events {
				s.durable[e.ID] = true
			}
			s.mu.Unlock()
			return
		}
	}
}

func (s *storm) deliverSome() {
	if rand.N(30) == 0 {
		s.fault(rand.N(7))
	}
	s.deliver(rand.N(40))
}

// deliver claims and settles what both apps have, and returns how many that were.
func (s *storm) deliver(mood int) (n int) {
	for _, app := range s.apps {
		var before []store.EventID
		s.mu.Lock()
		for id := range s.delivered {
			before = append(before, id)
		}
		s.mu.Unlock()
		claimed, _, err := s.Claim(context.Background(), app, 1+rand.N(8), time.Hour)
		if err != nil {
			continue
		}
		known := make(map[store.EventID]bool)
		for _, id := range before {
			known[id] = true
		}
		n += len(claimed)
		for _, c := range claimed {
			if known[c.ID] {
				s.Errorf("%s was delivered before it was claimed again", c.ID)
			}
			s.settle(c, mood)
		}
	}
	return n
}

func (s *storm) settle(c store.Claimed, mood int) {
	a := store.Attempt{Result: store.Delivered}
	switch mood {
	case 1:
		a.Result = store.Returned
	case 2:
		a = store.Attempt{Result: store.Failed, NextAttemptAt: s.clock.Now().Add(time.Minute), Error: "no"}
	case 3:
		return // it runs out
	}
	if a.Result == store.Delivered {
		s.mu.Lock()
		s.settling[c.ID] = true
		s.mu.Unlock()
	}
	for (behind{s.Store}).Settle(context.Background(), c, a) != nil {
	}
	if a.Result == store.Delivered {
		s.mu.Lock()
		delete(s.left, c.ID)
		s.delivered[c.ID] = true
		s.mu.Unlock()
	}
}

// fault has something happen that must change nothing.
func (s *storm) fault(kind int) {
	ctx := context.Background()
	switch kind {
	case 0: // the rest of a group, and what came before
		_ = s.writer.do(ctx, &operation{apply: func(w *writer) error {
			_, _ = w.begin()
			return errors.New("the disk fails")
		}})
	case 1: // another process has written
		if s.tool == nil {
			return
		}
		_ = s.tool.CreateAccount(ctx, tenant.Account{ID: tenant.AccountID(fmt.Sprintf("acct_%d", rand.Int64())), Currency: "USD"})
	case 2: // and read what is there
		if s.tool == nil {
			return
		}
		for range s.tool.Events(ctx, store.EventFilter{}) {
		}
	case 3:
		_ = s.writer.do(ctx, &operation{apply: func(w *writer) error { s.claims.forgetAll(); return nil }})
	case 4:
		_, _ = s.Store.Backlog(ctx)
	case 5:
		s.clock.Advance(arrivalRest / 2)
	case 6: // there is no room for some time
		s.exec("CREATE TEMP TRIGGER IF NOT EXISTS full BEFORE INSERT ON " + []string{"outbox", "outbox_recent"}[rand.N(2)] +
			" BEGIN SELECT RAISE(ABORT, 'refused'); END")
		s.clock.Advance(arrivalRest / 4)
		s.exec("DROP TRIGGER IF EXISTS full")
	}
}

// exec has the writer run a statement, in whatever transaction there is.
func (s *storm) exec(statement string) {
	_ = s.writer.do(context.Background(), &operation{apply: func(w *writer) error {
		_, err := w.write(statement)
		return err
	}})
}

// A machine that loses its power has of each event what it has told, and nothing of what it
// has told to be delivered.
func TestAPowerCutAmongDeliveriesLosesNoEventAndBringsNoneBack(t *testing.T) {
	s := newStorm(t)
	var tasks sync.WaitGroup
	for range 3 {
		tasks.Go(func() { s.repeat(100, s.receiveSome) })
		tasks.Go(func() { s.repeat(200, s.deliverSome) })
	}
	for range 5 {
		s.mu.Lock()
		durable, delivered := maps.Clone(s.durable), maps.Clone(s.delivered)
		s.mu.Unlock()
		survivor, _ := crash(t, s.Store, s.path)
		s.mu.Lock()
		settling := maps.Clone(s.settling)
		s.mu.Unlock()
		there := make(map[store.EventID]bool)
		for _, id := range pending(t, survivor) {
			there[id] = true
			if delivered[id] {
				t.Errorf("%s is back", id)
			}
		}
		for id := range durable {
			if !there[id] && !settling[id] {
				t.Errorf("%s is lost", id)
			}
		}
		survivor.Close()
	}
	tasks.Wait()
}
