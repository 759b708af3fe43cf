package redis

import (
	"context"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
	"github.com/connexease/caddy-whatsapp-gateway/store/storetest"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// meddler acts before the nth script of a client runs, and loses the answer of another.
type meddler struct {
	mu     sync.Mutex
	runs   int
	before map[int]func()
	lost   map[int]bool
}

func (m *meddler) DialHook(next goredis.DialHook) goredis.DialHook { return next }

// ProcessPipelineHook sees the scripts of sends.
func (m *meddler) ProcessPipelineHook(next goredis.ProcessPipelineHook) goredis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []goredis.Cmder) error {
		for _, cmd := range cmds {
			if args := cmd.Args(); cmd.Name() == "evalsha" && (args[argSHA] == admitScript.sha || args[argSHA] == settleScript.sha) {
				if act, _ := m.next(); act != nil {
					act()
				}
			}
		}
		return next(ctx, cmds)
	}
}

// next tells what is done to the script that runs now.
func (m *meddler) next() (act func(), lost bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.runs++
	return m.before[m.runs], m.lost[m.runs]
}

func (m *meddler) ProcessHook(next goredis.ProcessHook) goredis.ProcessHook {
	return func(ctx context.Context, cmd goredis.Cmder) error {
		if cmd.Name() != "evalsha" {
			return next(ctx, cmd)
		}
		act, lost := m.next()
		if act != nil {
			act()
		}
		err := next(ctx, cmd)
		if lost {
			cmd.SetErr(io.ErrUnexpectedEOF)
			return io.ErrUnexpectedEOF
		}
		return err
	}
}

func TestEachEventIsClaimedByOneOfTwoGateways(t *testing.T) {
	const events, runners = 600, 8
	server := redistest.Start(t, "appendfsync no")
	gateways := []*outbox{openOutbox(t, server, nil), openOutbox(t, server, nil)}
	all := outboxEvents("app_1", events)
	gateways[0].receive(all...)
	var mu sync.Mutex
	times := make(map[store.EventID]int)
	var group sync.WaitGroup
	for i := range runners {
		o := gateways[i%2]
		group.Go(func() {
			for {
				claimed, _, err := o.Claim(t.Context(), "app_1", 7, time.Hour)
				if err != nil {
					t.Error(err)
				}
				if len(claimed) == 0 {
					return
				}
				for _, c := range claimed {
					mu.Lock()
					times[c.ID]++
					mu.Unlock()
					if err := o.Settle(t.Context(), c, store.Attempt{Result: store.Delivered}); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	group.Wait()
	for _, e := range all {
		if times[e.ID] != 1 {
			t.Fatalf("an event was claimed %d times", times[e.ID])
		}
	}
	if keys := gateways[0].keys(server); len(keys) > 0 {
		t.Errorf("what was delivered has left %q", keys)
	}
}

// Unlike a restart of the only gateway, the end of one of many frees nothing.
func TestClaimsOutlastTheGatewayUntilTheirLeaseEnds(t *testing.T) {
	server := redistest.Start(t)
	clock := storetest.NewClock()
	one, other := openOutbox(t, server, clock), openOutbox(t, server, clock)
	one.receive(outboxEvents("app_1", 1)...)
	if n := len(one.claim("app_1", 5)); n != 1 {
		t.Fatalf("%d events were claimed, want 1", n)
	}
	one.must(one.Close())
	if n := len(other.claim("app_1", 5)); n != 0 {
		t.Fatalf("%d claimed events were claimed again", n)
	}
	clock.Advance(time.Hour)
	if n := len(other.claim("app_1", 5)); n != 1 {
		t.Fatalf("%d events were claimed after the lease, want 1", n)
	}
}

// Scores are doubles, which Redis writes with an exponent where they are round.
func TestTimesAreExactToTheMicrosecond(t *testing.T) {
	o := openOutbox(t, redistest.Start(t), storetest.NewClock())
	for i, micros := range []int64{1_700_000_000_000_000, 2_000_000_000_000_000, 1_799_999_999_999_999, 1_234_567_890_123_457} {
		app := tenant.AppID(fmt.Sprintf("app_%d", i))
		want := time.UnixMicro(micros).UTC()
		o.receive(outboxEvents(app, 1)...)
		o.settle(app, 1, store.Attempt{Result: store.Failed, NextAttemptAt: want})
		if got := o.backlog()[app]; !got.Equal(want) {
			t.Errorf("the backlog has %v, want %v", got, want)
		}
		_, next, err := o.Claim(t.Context(), app, 0, time.Hour)
		if err != nil || !next.Equal(want) {
			t.Errorf("the next is due at %v, want %v, error %v", next, want, err)
		}
	}
}

func TestClaimWhoseAnswerIsLostIsMadeAgain(t *testing.T) {
	server := redistest.Start(t)
	o := openOutbox(t, server, storetest.NewClock())
	events := outboxEvents("app_1", 5)
	o.receive(events...)
	o.claim("app_2", 1) // the script is known
	o.client.AddHook(&meddler{lost: map[int]bool{1: true}})
	claimed := o.claim("app_1", 3)
	var got []store.EventID
	for _, c := range claimed {
		got = append(got, c.ID)
	}
	wantIDs(t, "claimed events", got, eventIDs(events[:3]))
	if n := len(o.claim("app_1", 5)); n != 2 {
		t.Errorf("%d of the others were claimed, want 2", n)
	}
	for _, c := range claimed {
		o.must(o.Settle(t.Context(), c, store.Attempt{Result: store.Delivered}))
	}
	wantIDs(t, "events that were not delivered", o.list(store.EventFilter{}), eventIDs(events[3:]))
}

func TestOutcomeWhoseAnswerIsLostCountsOnce(t *testing.T) {
	o := openOutbox(t, redistest.Start(t), storetest.NewClock())
	e := outboxEvents("app_1", 1)[0]
	o.receive(e)
	claimed := o.claim("app_1", 1)
	o.must(o.Settle(t.Context(), store.Claimed{}, store.Attempt{})) // the script is known
	o.client.AddHook(&meddler{lost: map[int]bool{1: true}})
	o.must(o.Settle(t.Context(), claimed[0], store.Attempt{Result: store.Failed, NextAttemptAt: o.clock.Now()}))
	if got, err := o.Event(t.Context(), e.ID); err != nil || got.Attempts != 1 {
		t.Errorf("%d attempts, error %v, want 1", got.Attempts, err)
	}
}

func TestEventsAreDeliveredWhereMemoryIsFull(t *testing.T) {
	server := redistest.Start(t, "maxmemory-policy noeviction")
	o := openOutbox(t, server, storetest.NewClock())
	o.receive(outboxEvents("app_1", 2)...)
	if _, err := server.Command("CONFIG", "SET", "maxmemory", "1"); err != nil {
		t.Fatal(err)
	}
	if err := o.receiveEvents(t.Context(), outboxEvents("app_1", 1)); err == nil {
		t.Error("an event was received without memory for it")
	}
	o.settle("app_1", 2, store.Attempt{Result: store.Delivered})
	if left := o.list(store.EventFilter{}); len(left) > 0 {
		t.Errorf("%d events are left, want none", len(left))
	}
}
