package gateway

import (
	"slices"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/core/coretest"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// charge makes n charges at the account and returns the ids of the entries that
// the Core Service is to get, in their order.
func (s *station) charge(account tenant.AccountID, n int) (ids []string) {
	s.t.Helper()
	for range n {
		a := admission(account, store.Hold)
		s.wantVerdict(a, store.Admitted)
		must(s.t, s.store.Capture(s.t.Context(), a.HoldID, "wamid."+string(a.HoldID)))
		ids = append(ids, a.HoldID.EntryID(store.KindCapture))
	}
	return ids
}

func entryIDs(entries []coretest.Entry) (ids []string) {
	for _, e := range entries {
		ids = append(ids, e.ID)
	}
	return ids
}

func TestLedgerIsReportedInOrderAndAllOfIt(t *testing.T) {
	eachStore(t, func(t *testing.T, s stored) {
		core := newCore(t)
		core.newKey(t, 1_000_000)
		gateway := newStation(t, s, 1, core)
		r := newReporter(gateway.store.Store.(store.Follower), gateway.core, gateway.logger)
		want := gateway.charge("acct_core", 5)
		drain := func() {
			t.Helper()
			for wait := r.step(t.Context()); wait != reportEvery; wait = r.step(t.Context()) {
				if wait != 0 {
					t.Fatalf("it waits for %v", wait)
				}
			}
		}
		drain()
		captures := func() []string {
			return slices.DeleteFunc(entryIDs(core.EntriesOf("acct_core")), func(id string) bool { return !slices.Contains(want, id) })
		}
		if got := captures(); !slices.Equal(got, want) {
			t.Errorf("reported %v, want %v", got, want)
		}

		want = append(want, gateway.charge("acct_core", 3)...)
		var waits []time.Duration
		for _, fault := range []coretest.Fault{coretest.Down, coretest.HTML, coretest.Error, coretest.NotFound, {Late: true, Down: true}, coretest.Error} {
			core.Set(fault, coretest.Ledger)
			waits = append(waits, r.step(t.Context()))
		}
		if d := []time.Duration{1e9, 2e9, 4e9, 8e9, 16e9, 30e9}; !slices.Equal(waits, d) {
			t.Errorf("after failures it waits for %v", waits)
		}
		if lag := oldestUnreported.Load(); lag == 0 {
			t.Error("the lag is not shown")
		}
		core.Heal()
		drain()
		if got := captures(); !slices.Equal(got, want) {
			t.Errorf("reported %v, want %v", got, want)
		}
		if lag := oldestUnreported.Load(); lag != 0 {
			t.Error("a lag is shown")
		}
		for _, message := range []string{"reporting the ledger to the core service failed and is tried again", "the ledger is reported to the core service again"} {
			if n := gateway.logs.FilterMessage(message).Len(); n != 1 {
				t.Errorf("%q was logged %d times", message, n)
			}
		}
	})
}

func TestOneGatewayReportsAtATime(t *testing.T) {
	s, core := onRedis(t), newCore(t)
	core.newKey(t, 1_000_000)
	gateway, other := newStation(t, s, 1, core), newStation(t, s, 2, core)
	gateway.charge("acct_core", 1)
	first := newReporter(gateway.store.Store.(store.Follower), gateway.core, gateway.logger)
	second := newReporter(other.store.Store.(store.Follower), other.core, other.logger)
	if wait := first.step(t.Context()); wait != 0 {
		t.Errorf("the first waits for %v", wait)
	}
	if wait := second.step(t.Context()); wait != reportWhenBusy {
		t.Errorf("the second waits for %v", wait)
	}
}

func TestStartedGatewayReportsByItself(t *testing.T) {
	eachStore(t, func(t *testing.T, s stored) {
		core := newCore(t)
		core.newKey(t, 1_000_000)
		gateway := newStation(t, s, 1, core)
		ids := gateway.charge("acct_core", 1)
		must(t, gateway.Start())
		t.Cleanup(func() { _ = gateway.Stop() })
		await(t, "the entry", func() bool { return slices.Contains(entryIDs(core.Entries()), ids[0]) })
	})
}
