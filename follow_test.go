package gateway

import (
	"errors"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/core/coretest"
	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
)

func (s *station) wantVerdict(a store.Admission, want store.Verdict) {
	s.t.Helper()
	d, err := s.admit(s.t.Context(), a)
	if err != nil || d.Verdict != want {
		s.t.Errorf("verdict %v, error %v; want %v", d.Verdict, err, want)
	}
}

func (s *station) wantAvailable(want pricing.Micros) {
	s.t.Helper()
	b, err := s.store.Balance(s.t.Context(), "acct_core")
	if err != nil || b.Available != want {
		s.t.Errorf("available %v, error %v; want %v", b.Available, err, want)
	}
}

func TestCreditsAtTheCoreServiceCountBeforeARequestIsRefused(t *testing.T) {
	eachStore(t, func(t *testing.T, s stored) {
		core := newCore(t)
		core.newKey(t, 1500)
		gateway := newStation(t, s, 1, core)
		clock := time.Now()
		gateway.totals.now = func() time.Time { return clock }
		gateway.wantVerdict(admission("acct_core", store.Hold), store.Admitted) // its wallet is made
		gateway.wantVerdict(admission("acct_core", store.Hold), store.Admitted)
		gateway.wantAvailable(-500)
		for range 3 {
			gateway.wantVerdict(admission("acct_core", store.Hold), store.NoBalance)
		}
		wantRequests(t, core, coretest.Accounts, 1)

		must1(core.Credit("acct_core", 1000))
		gateway.wantVerdict(admission("acct_core", store.Hold), store.NoBalance)
		clock = clock.Add(followEvery)
		gateway.wantVerdict(admission("acct_core", store.Check), store.Admitted) // the order of errors holds
		gateway.wantAvailable(500)
		wantRequests(t, core, coretest.Accounts, 2)
	})
}

func TestAccountsThatNobodyKnowsAreAskedForOnce(t *testing.T) {
	eachStore(t, func(t *testing.T, s stored) {
		core := newCore(t)
		gateway := newStation(t, s, 1, core)
		for range 3 {
			gateway.wantVerdict(admission("acct_core", store.Hold), store.NoAccount)
			gateway.wantVerdict(admission("", store.Hold), store.NoAccount)
		}
		wantRequests(t, core, coretest.Accounts, 1)
	})
}

func TestVerdictsWhileTheCoreServiceIsAway(t *testing.T) {
	eachStore(t, func(t *testing.T, s stored) {
		core := newCore(t)
		core.newKey(t, 1000)
		gateway := newStation(t, s, 1, core)
		gateway.wantVerdict(admission("acct_core", store.Hold), store.Admitted)
		core.Set(coretest.Error)
		for range 2 {
			if _, err := gateway.admit(t.Context(), admission("acct_new", store.Hold)); !errors.Is(err, errCoreAway) {
				t.Errorf("an account that may be there: %v", err)
			}
		}
		wantRequests(t, core, coretest.Accounts, 2)
		clock := time.Now().Add(followEvery)
		gateway.totals.now = func() time.Time { return clock }
		gateway.wantVerdict(admission("acct_core", store.Hold), store.NoBalance)
		wantRequests(t, core, coretest.Accounts, 3)
	})
}

func TestWalletsInUseFollow(t *testing.T) {
	eachStore(t, func(t *testing.T, s stored) {
		core := newCore(t)
		core.newKey(t, 5000)
		gateway := newStation(t, s, 1, core)
		follower := gateway.store.Store.(store.Follower)
		gateway.totals.followUsed(t.Context(), follower)
		wantRequests(t, core, coretest.Accounts, 0) // none is

		gateway.wantVerdict(admission("acct_core", store.Hold), store.Admitted)
		must1(core.Credit("acct_core", 2000))
		clock := time.Now().Add(followInUseEvery)
		gateway.totals.now = func() time.Time { return clock }
		gateway.totals.followUsed(t.Context(), follower)
		gateway.wantAvailable(6000)
		clock = clock.Add(followInUseEvery)
		gateway.totals.followUsed(t.Context(), follower)
		wantRequests(t, core, coretest.Accounts, 2) // it has not been used again
	})
}

func TestAnotherCurrencyIsNotFollowedAndToldAbout(t *testing.T) {
	core := newCore(t)
	core.newKey(t, 1000)
	gateway := newStation(t, stored{dir: t.TempDir()}, 1, core)
	gateway.wantVerdict(admission("acct_core", store.Hold), store.Admitted)
	if n := gateway.logs.Len(); n != 0 {
		t.Errorf("%d log lines: %v", n, gateway.logs.All())
	}
	must(t, core.PutAccount("acct_core", "EUR"))
	clock := time.Now().Add(followEvery)
	gateway.totals.now = func() time.Time { return clock }
	gateway.wantVerdict(admission("acct_core", store.Hold), store.NoBalance)
	if n := gateway.logs.FilterMessage("a wallet cannot follow the core service").Len(); n != 1 {
		t.Errorf("%d log lines", n)
	}
}

func TestOutageOfTheCoreServiceIsLoggedOnce(t *testing.T) {
	core := newCore(t)
	gateway := newStation(t, stored{dir: t.TempDir()}, 1, core)
	key := core.newKey(t, 0)
	core.Set(coretest.Down)
	for range 3 {
		gateway.wantCode(key, "AUTH_004")
	}
	core.Heal()
	gateway.wantCode(key, "")
	for _, message := range []string{"the core service is away", "the core service is back"} {
		if n := gateway.logs.FilterMessage(message).Len(); n != 1 {
			t.Errorf("%q was logged %d times", message, n)
		}
	}
}
