package redis

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
	"github.com/connexease/caddy-whatsapp-gateway/store/storetest"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// limited is an account, and a store on the clock of a test through which it is asked. Asked counts
// how often Redis was.
type limited struct {
	*books
	store *Store
	clock *storetest.Clock
	wire  wire
	asked atomic.Int64
}

func newLimited(t *testing.T, server *redistest.Server, clock *storetest.Clock) *limited {
	o := testOptions(t, "single", "", server.URL())
	o.Clock = clock.Now
	l := &limited{books: newBooks(t, o), clock: clock}
	o.Serving, o.Timeout = false, patience
	l.store = open(t, l.wire.under(o))
	l.wire.decide(l.count)
	return l
}

func (l *limited) count(sent []byte) fate {
	if admitScript.runs(sent) {
		l.asked.Add(1)
	}
	return arrives
}

// with is an admission under these limits.
func (l *limited) with(limits tenant.RateLimit) store.Admission {
	a := l.admission()
	a.Limits = limits
	return a
}

func (l *limited) want(when string, a store.Admission, want store.Verdict) store.Decision {
	l.t.Helper()
	d, err := l.store.Admit(l.t.Context(), a)
	if err != nil || d.Verdict != want {
		l.t.Errorf("%s: %+v, %v; want verdict %d", when, d, err, want)
	}
	return d
}

// wantAsked compares how often Redis was asked since the last time.
func (l *limited) wantAsked(when string, want int64) {
	l.t.Helper()
	if n := l.asked.Swap(0); n != want {
		l.t.Errorf("%s: redis was asked %d times, want %d", when, n, want)
	}
}

// However long a gateway is allowed to refuse by itself, it does what Redis would do, down to the quotas.
func TestAGatewayRefusesByItselfWhatRedisWouldRefuse(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "appendfsync no")
	for _, limits := range []tenant.RateLimit{{PerSecond: 1, PerMinute: 1}, {PerSecond: 3, PerMinute: 20}, {PerSecond: 20, PerMinute: 30}, {PerSecond: 150, PerMinute: 400}} {
		t.Run(fmt.Sprint(limits), func(t *testing.T) {
			t.Parallel()
			clock := storetest.NewClock()
			byItself, asking := newLimited(t, server, clock), newLimited(t, server, clock)
			byItself.store.fullWindows.most, asking.store.fullWindows.most = time.Hour, 0
			random := rand.New(rand.NewPCG(1, uint64(limits.PerMinute)))
			refused := 0
			for range 1500 {
				if random.IntN(3) == 0 {
					most := int64(time.Second) >> random.IntN(20)
					if random.IntN(50) == 0 {
						most *= 30
					}
					clock.Advance(time.Duration(random.Int64N(most)))
				}
				mode := store.Mode(random.IntN(3))
				var decisions [2]store.Decision
				for i, l := range []*limited{byItself, asking} {
					a := l.with(limits)
					if a.Mode = mode; mode != store.Hold {
						a.Fee, a.HoldID = 0, ""
					}
					d, err := l.store.Admit(t.Context(), a)
					noError(t, err)
					decisions[i] = d
				}
				if diff := cmp.Diff(decisions[1], decisions[0]); diff != "" {
					t.Fatalf("mode %d at %v (-redis +gateway):\n%s", mode, clock.Now(), diff)
				}
				if decisions[0].Verdict != store.Admitted {
					refused++
				}
			}
			if n, all := byItself.asked.Load(), asking.asked.Load(); refused == 0 || n >= all {
				t.Errorf("of %d requests %d were refused, and redis was asked %d times", all, refused, n)
			}
		})
	}
}

// oneASecond is a limit that the second request is over.
var oneASecond = tenant.RateLimit{PerSecond: 1, PerMinute: 100}

// refused has the app be over that limit, and the gateway know it.
func (l *limited) refused() {
	l.t.Helper()
	l.want("the first", l.with(oneASecond), store.Admitted)
	l.want("the second", l.with(oneASecond), store.OverSecond)
	l.wantAsked("until it is refused", 2)
	l.want("the third", l.with(oneASecond), store.OverSecond)
	l.wantAsked("when it is known", 0)
}

func TestAChangedLimitCountsAtOnce(t *testing.T) {
	t.Parallel()
	l := newLimited(t, redistest.Start(t, "appendfsync no"), storetest.NewClock())
	l.refused()
	two := tenant.RateLimit{PerSecond: 2, PerMinute: 100}
	l.want("with a higher limit", l.with(two), store.Admitted)
	if d := l.want("with the old one again", l.with(oneASecond), store.OverSecond); d.Minute.Remaining != 98 {
		t.Errorf("it is told %+v, although two were admitted", d)
	}
	l.want("with the higher one again", l.with(two), store.OverSecond)
	l.want("with a lower one", l.with(tenant.RateLimit{PerSecond: 2, PerMinute: 1}), store.OverMinute)
	l.wantAsked("with changed limits", 4)
}

// Another gateway may know of a higher limit already.
func TestAGatewayThatRefusesHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	l := newLimited(t, redistest.Start(t, "appendfsync no"), storetest.NewClock())
	l.refused()
	d, err := l.Admit(t.Context(), l.with(tenant.RateLimit{PerSecond: 2, PerMinute: 100}))
	if err != nil || d.Verdict != store.Admitted {
		t.Errorf("the other gateway answers %+v, %v", d, err)
	}
	l.want("here", l.with(oneASecond), store.OverSecond)
}

func TestAHoldThatWasMadeIsToldOfWhileItsAppIsRefused(t *testing.T) {
	t.Parallel()
	l := newLimited(t, redistest.Start(t, "appendfsync no"), storetest.NewClock())
	made, notMade := l.with(oneASecond), l.with(oneASecond)
	l.want("the first", made, store.Admitted)
	l.want("the second", notMade, store.OverSecond)
	l.want("another", l.with(oneASecond), store.OverSecond)
	noError(t, l.store.Capture(t.Context(), made.HoldID, "wamid.1"))
	l.wantAsked("before", 2)
	l.want("the first again", made, store.Admitted)
	l.want("the second again", notMade, store.OverSecond)
	l.wantAsked("for holds of before", 2)
}

// Where a failover has lost the windows, or somebody has deleted them, or Redis's clock was set, a gateway
// hears of it soon.
func TestAGatewayRefusesByItselfForAMomentOnly(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "appendfsync no")
	l := newLimited(t, server, storetest.NewClock())
	l.refused()
	command(t, server, "DEL", l.base(placeOf(l.account))+"windows:"+string(l.app))
	l.clock.Advance(maxFull - time.Nanosecond)
	l.want("just before", l.with(oneASecond), store.OverSecond)
	l.wantAsked("just before", 0)
	l.clock.Advance(time.Nanosecond)
	l.want("then", l.with(oneASecond), store.Admitted)
}

func TestAClockThatIsSetBackEndsWhatAGatewayKnows(t *testing.T) {
	t.Parallel()
	l := newLimited(t, redistest.Start(t, "appendfsync no"), storetest.NewClock())
	l.refused()
	l.clock.Advance(-time.Microsecond)
	l.want("a little earlier", l.with(oneASecond), store.OverSecond)
	l.wantAsked("a little earlier", 1)
	l.clock.Advance(-2 * time.Minute)
	l.want("two minutes earlier", l.with(oneASecond), store.Admitted)
}

func TestAGatewayThatRefusesKnowsWhenItsStoreIsAwayOrClosed(t *testing.T) {
	t.Parallel()
	l := newLimited(t, redistest.Start(t, "appendfsync no"), storetest.NewClock())
	l.refused()
	l.wire.refuses.Store(true)
	l.wire.decide(func([]byte) fate { return lostBefore })
	other := l.with(roomy)
	other.App = "app_other"
	if d, err := l.store.Admit(t.Context(), other); !errors.As(err, new(awayError)) {
		t.Fatalf("another app is answered %+v, %v", d, err)
	}
	if d, err := l.store.Admit(t.Context(), l.with(oneASecond)); !d.ByShare {
		t.Errorf("while the store is away: %+v, %v", d, err)
	}
	l.wire.heal()
	noError(t, eventuallyDone(t, func() error { _, err := l.store.Admit(t.Context(), other); return err }))
	l.want("when it is back", l.with(oneASecond), store.OverSecond)
	noError(t, l.store.Close())
	if d, err := l.store.Admit(t.Context(), l.with(oneASecond)); !errors.Is(err, store.ErrClosed) {
		t.Errorf("when it is closed: %+v, %v", d, err)
	}
}

// What an app is told whose windows are in another place than its money depends on both.
func TestOfWindowsApartFromTheMoneyNothingIsKnown(t *testing.T) {
	t.Parallel()
	l := newLimited(t, redistest.Start(t, "appendfsync no"), storetest.NewClock())
	l.refused()
	moved := l.with(oneASecond)
	moved.Account = l.neighbour(false, testFee).account
	for range 2 {
		l.want("for another account", moved, store.OverSecond)
	}
	l.wantAsked("for another account", 4)
}

func TestAppsThatAreRefusedTakeBoundedMemory(t *testing.T) {
	t.Parallel()
	f := fullWindows{most: maxFull}
	now := time.Now()
	d := decision{Decision: store.Decision{Verdict: store.OverMinute}, fullFor: time.Second}
	for i := range 2*maxFullApps + 1 {
		a := store.Admission{App: tenant.AppID(fmt.Sprint(i)), Limits: oneASecond}
		f.note(a, d, now)
		if got, ok := f.refuse(a, now); !ok || got != d.Decision {
			t.Fatalf("it is told %+v, %v", got, ok)
		}
		if len(f.apps) > maxFullApps {
			t.Fatalf("%d are known", len(f.apps))
		}
	}
}
