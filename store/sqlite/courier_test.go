package sqlite

import (
	"bytes"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// courier does random things to events, and knows what has to be left.
type courier struct {
	t       *testing.T
	s       *Store
	pending []store.EventID
	claimed []store.Claimed
	dead    []store.EventID
}

func (m *courier) remove(from *[]store.EventID, id store.EventID) {
	*from = slices.DeleteFunc(*from, func(one store.EventID) bool { return one == id })
}

func (m *courier) step() {
	m.t.Helper()
	const app = "app_1"
	switch rand.IntN(12) {
	case 0, 1, 2:
		m.pending = append(m.pending, put(m.t, m.s, app))
	case 3:
		e := many(app, 1)
		e[0].Payload = bytes.Repeat([]byte("x"), maxArrival+1)
		if _, err := m.s.Receive(m.t.Context(), e, nil); err != nil {
			m.t.Fatal(err)
		}
		m.pending = append(m.pending, e[0].ID)
	case 4, 5, 6:
		m.claimed = append(m.claimed, claimSome(m.t, m.s, app, 1+rand.IntN(3))...)
	case 7, 8, 9, 10:
		m.settle()
	case 11:
		m.move(app)
	}
}

func (m *courier) settle() {
	if len(m.claimed) == 0 {
		return
	}
	i := rand.IntN(len(m.claimed))
	c := m.claimed[i]
	m.claimed = slices.Delete(m.claimed, i, i+1)
	a := store.Attempt{Result: []store.AttemptResult{store.Delivered, store.Delivered, store.Failed, store.GivenUp, store.Returned}[rand.IntN(5)]}
	a.NextAttemptAt = time.Now().Add(-time.Second)
	if err := (behind{m.s}).Settle(m.t.Context(), c, a); err != nil {
		m.t.Fatal(err)
	}
	switch a.Result {
	case store.Delivered:
		m.remove(&m.pending, c.ID)
	case store.GivenUp:
		m.remove(&m.pending, c.ID)
		m.dead = append(m.dead, c.ID)
	}
}

// move buries or replays.
func (m *courier) move(app tenant.AppID) {
	if rand.IntN(2) == 0 {
		n, err := m.s.Replay(m.t.Context(), nil, app)
		if err != nil || n != len(m.dead) {
			m.t.Fatalf("replayed %d of %d, %v", n, len(m.dead), err)
		}
		m.pending, m.dead = append(m.pending, m.dead...), nil
		return
	}
	if _, err := m.s.Bury(m.t.Context(), app, time.Now().Add(time.Hour), "gone"); err != nil {
		m.t.Fatal(err)
	}
	for _, id := range slices.Clone(m.pending) {
		if !slices.ContainsFunc(m.claimed, func(c store.Claimed) bool { return c.ID == id }) {
			m.remove(&m.pending, id)
			m.dead = append(m.dead, id)
		}
	}
}

// check compares what a store has.
func (m *courier) check(s *Store) {
	m.t.Helper()
	got := slices.Sorted(slices.Values(pending(m.t, s)))
	if diff := cmp.Diff(slices.Sorted(slices.Values(m.pending)), got); diff != "" {
		m.t.Fatal("pending: ", diff)
	}
}

func TestEventsOutliveACrashAtAnyMoment(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.db")
	m := &courier{t: t, s: open(t, path, time.Now)}
	for range 12 {
		for range rand.IntN(30) {
			m.step()
		}
		survivor, copied := crash(t, m.s, path)
		m.check(survivor)
		if again := len(claimSome(t, survivor, "app_1", 1000)); again != len(m.pending) {
			t.Errorf("%d of %d events can be claimed after a crash", again, len(m.pending))
		}
		if err := survivor.Close(); err != nil {
			t.Fatal(err)
		}
		m.check(openTool(t, copied))
	}
	m.check(m.s)
}

func TestACommandSeesNewEventsAndBringsBackNone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.db")
	m := &courier{t: t, s: open(t, path, time.Now)}
	for range 10 {
		for range rand.IntN(20) {
			m.step()
		}
		tool := openTool(t, path)
		m.check(tool)
		if err := tool.Close(); err != nil {
			t.Fatal(err)
		}
	}
	m.check(m.s)
}
