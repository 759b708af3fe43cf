package redis

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
)

// move is a slot of a Cluster that goes from one master to another.
type move struct {
	t        testing.TB
	cluster  *redistest.Cluster
	slot     any
	from, to *redistest.Server
	toID     any
}

// startMove begins to move the slot of a key. None of its keys has been moved yet.
func startMove(t testing.TB, cluster *redistest.Cluster, key string) *move {
	t.Helper()
	m := &move{t: t, cluster: cluster, from: cluster.MasterOf(key)}
	for _, node := range cluster.Nodes {
		if node != m.from && m.to == nil && command(t, node, "ROLE").([]any)[0] == "master" {
			m.to = node
		}
	}
	m.slot, m.toID = command(t, m.from, "CLUSTER", "KEYSLOT", key), command(t, m.to, "CLUSTER", "MYID")
	command(t, m.to, "CLUSTER", "SETSLOT", m.slot, "IMPORTING", command(t, m.from, "CLUSTER", "MYID"))
	command(t, m.from, "CLUSTER", "SETSLOT", m.slot, "MIGRATING", m.toID)
	return m
}

func (m *move) keys(keys ...string) {
	m.t.Helper()
	host, port, _ := net.SplitHostPort(m.to.Addr())
	args := []any{"MIGRATE", host, port, "", 0, 5000, "KEYS"}
	for _, key := range keys {
		args = append(args, key)
	}
	command(m.t, m.from, args...)
}

// end moves what is left, and tells all nodes where the slot is.
func (m *move) end() {
	m.t.Helper()
	for {
		keys := texts(command(m.t, m.from, "CLUSTER", "GETKEYSINSLOT", m.slot, 100))
		if len(keys) == 0 {
			break
		}
		m.keys(keys...)
	}
	for _, node := range []*redistest.Server{m.to, m.from} {
		command(m.t, node, "CLUSTER", "SETSLOT", m.slot, "NODE", m.toID)
	}
}

// A script on half of a place would charge from a wallet whose holds it does not see, or
// find no account where there is one.
func TestAPlaceThatIsBeingMovedIsAway(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, "appendfsync everysec")
	o := testOptions(t, "cluster", "", cluster.URLs()...)
	b := newBooks(t, o)
	o.Timeout, o.Serving = short, false
	s := open(t, o)
	captured, released, seen, doubtful := b.hold(s), b.hold(s), b.hold(s), b.hold(s)
	total := store.Total{Account: b.account, Currency: "USD", Credited: testFee, Version: 1}
	steps := []struct {
		name string
		take step
	}{
		{"capture", func() error { return s.Capture(t.Context(), captured, messageOf(captured)) }},
		{"release", func() error { return s.Release(t.Context(), released) }},
		{"status", func() error { _, err := s.Receive(t.Context(), nil, delivered(messageOf(seen), seen)); return err }},
		{"credit", func() error { _, err := s.Credit(t.Context(), b.account, testFee, "another"); return err }},
		{"follow", func() error { return s.Follow(t.Context(), total) }},
		{"in doubt", func() error { _, err := s.InDoubt(t.Context(), time.Now().Add(time.Hour), store.Captured); return err }},
	}
	before, err := b.Balance(t.Context(), b.account)
	noError(t, err)

	base := b.base(placeOf(b.account))
	m := startMove(t, cluster, base)
	wantAway := func(when string) {
		t.Helper()
		id := b.wantAway(s)
		for _, step := range steps {
			if err := step.take(); !errors.As(err, new(awayError)) {
				t.Errorf("%s: %s is answered %v, want that redis is away", when, step.name, err)
			}
		}
		if balance, err := b.Balance(t.Context(), b.account); err != nil || balance != before {
			t.Errorf("%s: the balance is %+v, %v; it was %+v", when, balance, err, before)
		}
		if state := b.state(id); state != "" {
			t.Errorf("%s: a hold that was refused is %q", when, state)
		}
	}
	wantAway("before the first key")
	m.keys(base + "open")
	wantAway("with the holds gone ahead")
	m.keys(base+"wallet:"+string(b.account), base+"ledger:"+string(b.account), base+"unreported")
	wantAway("with the wallet gone ahead")
	m.end()

	for range 2 {
		for _, step := range steps {
			noError(t, eventuallyDone(t, step.take))
		}
	}
	b.served(s)
	s.nothingLeft(t)
	st := b.wantHolds(4, 1, 0)
	for _, id := range []store.HoldID{captured, seen, doubtful} {
		if _, ok := st.Captured[id]; !ok {
			t.Error("a send is not charged")
		}
	}
	if !st.Released[released] {
		t.Error("what was released is not given back")
	}
}
