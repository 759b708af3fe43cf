package redis

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
)

// traffic is senders that hold and capture until they are told to stop. A capture is
// repeated until it is answered, as the journal does.
type traffic struct {
	*books
	running sync.WaitGroup
	stop    context.CancelFunc

	mu sync.Mutex
	// captured are the captures that were answered, in their order; lost those
	// whose hold nobody knew any more, and refused counts admissions.
	captured, lost []store.HoldID
	refused        int
}

// startTraffic has senders share the stores.
func startTraffic(b *books, senders int, stores ...*Store) *traffic {
	ctx, stop := context.WithCancel(b.t.Context())
	tr := &traffic{books: b, stop: stop}
	b.t.Cleanup(tr.end)
	for i := range senders {
		tr.running.Go(func() {
			for ctx.Err() == nil {
				tr.send(stores[i%len(stores)])
			}
		})
	}
	return tr
}

// send holds and captures once.
func (tr *traffic) send(s *Store) {
	a := tr.admission()
	if d, err := s.Admit(context.Background(), a); err != nil || d.Verdict != store.Admitted {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		tr.refused++
		return
	}
	err := errors.New("not captured yet")
	for deadline := time.Now().Add(patience); err != nil && !ours(err) && time.Now().Before(deadline); {
		err = s.Capture(context.Background(), a.HoldID, messageOf(a.HoldID))
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	switch {
	case err == nil:
		tr.captured = append(tr.captured, a.HoldID)
	case errors.Is(err, store.ErrNotFound):
		tr.lost = append(tr.lost, a.HoldID)
	default:
		tr.t.Errorf("a capture: %v", err)
	}
}

// await waits until that many more captures have been answered, and returns all.
func (tr *traffic) await(more int) []store.HoldID {
	tr.t.Helper()
	tr.mu.Lock()
	wanted := len(tr.captured) + more
	tr.mu.Unlock()
	var all []store.HoldID
	eventually(tr.t, "captures", func() bool {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		all = tr.captured[:len(tr.captured):len(tr.captured)]
		return len(all) >= wanted
	})
	return all
}

// end stops the senders and waits for them.
func (tr *traffic) end() {
	tr.stop()
	tr.running.Wait()
}

// offset is how far a server is in what is replicated.
func offset(t testing.TB, server *redistest.Server) int64 {
	t.Helper()
	role, _ := command(t, server, "ROLE").([]any)
	at := map[any]int{"master": 1, "slave": 4}[role[0]]
	n, _ := role[at].(int64)
	return n
}

// replicated waits until replicas have all that the master has just now.
func replicated(t testing.TB, master *redistest.Server, replicas ...*redistest.Server) {
	t.Helper()
	wanted := offset(t, master)
	for _, replica := range replicas {
		eventually(t, "the replica has what its master has", func() bool { return offset(t, replica) >= wanted })
	}
}

// failsOver kills a master in the midst of traffic. What was answered before the
// replicas had it is charged afterwards, once; what was answered later may be lost, since
// Redis answers before its replicas have it, but the books agree.
func failsOver(t *testing.T, o Options, failover func(*books) (master *redistest.Server, replicas []*redistest.Server, next func())) {
	b := newBooks(t, o)
	o.Timeout = 2 * short
	first, second := open(t, o), open(t, o)
	b.served(first)
	b.served(second)
	tr := startTraffic(b, 6, first, second)
	safe := tr.await(100)
	master, replicas, next := failover(b)
	replicated(t, master, replicas...)
	tr.await(20)
	master.Kill()
	next()
	tr.await(100)
	tr.end()
	eventually(t, "the books can be read", func() bool { _, err := b.Balance(t.Context(), b.account); return err == nil })
	for _, s := range []*Store{first, second} {
		b.served(s)
		s.nothingLeft(t)
	}

	st := b.audit()
	gone := 0
	for _, id := range tr.captured {
		if st.Captured[id] != messageOf(id) {
			gone++
		}
	}
	for _, id := range safe {
		if st.Captured[id] != messageOf(id) {
			t.Error("a charge is lost that the replicas had")
		}
	}
	t.Logf("%d captures, %d admissions refused; the failover has lost %d captures that were answered, and %d holds before their capture",
		len(tr.captured), tr.refused, gone, len(tr.lost))
	if len(tr.lost) > 0 {
		t.Errorf("%d captures were not made because their hold was lost", len(tr.lost))
	}
	// Holds whose admission was answered by the master that is no more may be open here.
	_, err := b.InDoubt(t.Context(), time.Now().Add(time.Hour), store.Released)
	noError(t, err)
	if st := b.audit(); len(st.Open) > 0 {
		t.Errorf("%d holds stay open", len(st.Open))
	}
}

func TestSentinelsFailoverChargesOnce(t *testing.T) {
	t.Parallel()
	sentinel := redistest.StartSentinel(t, "appendfsync everysec")
	failsOver(t, testOptions(t, "sentinel", sentinel.Name, sentinel.URLs()...), func(*books) (*redistest.Server, []*redistest.Server, func()) {
		master := sentinel.Master()
		var replicas []*redistest.Server
		for _, node := range sentinel.Nodes {
			if node != master {
				replicas = append(replicas, node)
			}
		}
		return master, replicas, func() { sentinel.WaitForFailover(master) }
	})
}

func TestAClustersFailoverChargesOnce(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, "appendfsync everysec")
	o := testOptions(t, "cluster", "", cluster.URLs()...)
	failsOver(t, o, func(b *books) (*redistest.Server, []*redistest.Server, func()) {
		base := b.base(placeOf(b.account))
		master := cluster.MasterOf(base)
		return master, []*redistest.Server{cluster.ReplicaOf(base)}, func() { cluster.WaitForFailover(base, master) }
	})
}

// switched dials whichever server is the one now.
type switched struct {
	atomic.Pointer[redistest.Server]
}

func (s *switched) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, s.Load().Addr())
}

// The replica misses the last writes for certain: its link is cut before them.
func TestACaptureBringsBackTheHoldThatAFailoverLost(t *testing.T) {
	t.Parallel()
	master, replica := redistest.StartReplicated(t)
	var at switched
	at.Store(master)
	o := testOptions(t, "single", "", master.URL())
	o.Connection.Dialer = at.dial
	b := newBooks(t, o)
	o.Timeout = short
	s, other := open(t, o), open(t, o)
	kept, keptReleased := b.hold(s), b.hold(s)
	replicated(t, master, replica)
	command(t, replica, "REPLICAOF", "NO", "ONE")

	lost, lostReleased, lostElsewhere := b.hold(s), b.hold(s), b.hold(s)
	b.wantHolds(0, 0, 5)
	master.Kill()
	at.Store(replica)
	eventually(t, "the replica serves", func() bool { _, err := b.Balance(t.Context(), b.account); return err == nil })

	b.wantHolds(0, 0, 2)
	for range 2 {
		for _, id := range []store.HoldID{kept, lost} {
			noError(t, eventuallyDone(t, func() error { return s.Capture(t.Context(), id, messageOf(id)) }))
		}
		noError(t, eventuallyDone(t, func() error { return s.Release(t.Context(), keptReleased) }))
		// What was lost is not held: there is nothing to give back.
		wantError(t, "a release", eventuallyDone(t, func() error { return s.Release(t.Context(), lostReleased) }), store.ErrNotFound)
		// Another gateway knows nothing of the hold.
		wantError(t, "a capture", eventuallyDone(t, func() error { return other.Capture(t.Context(), lostElsewhere, "wamid.x") }), store.ErrNotFound)
	}
	if st := b.wantHolds(2, 1, 0); st.Captured[lost] != messageOf(lost) || st.Captured[kept] != messageOf(kept) {
		t.Errorf("captured: %v", st.Captured)
	}
	results, err := other.Receive(t.Context(), nil, delivered(messageOf(lost), lost))
	if err != nil || results[0].Settled || results[0].Fee != store.FeeCharged {
		t.Errorf("the status of what came back: %+v, %v", results, err)
	}
	b.wantHolds(2, 1, 0)
}

// What becomes of a hold while a capture finds that it was lost, and is about to tell what it was, counts.
func TestACaptureBringsBackNothingThatCameMeanwhile(t *testing.T) {
	t.Parallel()
	b, s, w := onLane(t, patience, time.Hour)
	for name, row := range map[string]struct {
		meanwhile func(store.Admission) error
		want      error
		state     string
	}{
		"nothing": {func(store.Admission) error { return nil }, nil, "capture"},
		"forsaken": {func(a store.Admission) error {
			_, err := b.eval(t.Context(), forsakeScript, placeOf(a.Account), []any{string(a.HoldID)})
			return err
		}, store.ErrNotFound, "forsaken"},
		"made": {func(a store.Admission) error { _, err := b.Admit(t.Context(), a); return err }, nil, "capture"},
		"released": {func(a store.Admission) error {
			_, err := b.Admit(t.Context(), a)
			return errors.Join(err, b.Release(t.Context(), a.HoldID))
		}, store.ErrConflict, "release"},
		"captured": {func(a store.Admission) error {
			b.Remember(a)
			return b.Capture(t.Context(), a.HoldID, messageOf(a.HoldID))
		}, nil, "capture"},
	} {
		t.Run(name, func(t *testing.T) {
			a := b.admission()
			s.Remember(a)
			trips := 0
			w.decide(func(sent []byte) fate {
				if settleScript.runs(sent) {
					if trips++; trips == 2 {
						succeeds(t, row.meanwhile(a))
					}
				}
				return arrives
			})
			defer w.heal()
			for range 2 {
				if err := s.Capture(t.Context(), a.HoldID, messageOf(a.HoldID)); !errors.Is(err, row.want) {
					t.Errorf("the capture is answered %v, want %v", err, row.want)
				}
			}
			if state := b.state(a.HoldID); state != row.state || trips < 2 {
				t.Errorf("after %d trips the hold is %q, want %q", trips, state, row.state)
			}
		})
	}
	b.wantHolds(1+3, 1, 0)
}
