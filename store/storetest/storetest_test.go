package storetest

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

func openMemory(f fault) *Instance {
	clock := new(atomic.Int64)
	clock.Store(time.Date(2026, 1, 2, 3, 4, 5, 600_700_800, time.UTC).UnixNano())
	now := func() time.Time { return time.Unix(0, clock.Load()).UTC() }
	r := &records{
		fault: f, now: now, admitted: make(map[tenant.AppID][]time.Time),
		balances: make(map[tenant.AccountID]store.Balance), ids: make(map[string]int),
	}
	return &Instance{
		Store:   &memory{records: r},
		Reopen:  func() store.Store { return &memory{records: r} },
		Now:     now,
		Advance: func(d time.Duration) { clock.Add(int64(d)) },
	}
}

func TestMemoryPasses(t *testing.T) {
	Run(t, Harness{Open: func(*testing.T) *Instance { return openMemory("") }})
}

// In a bubble of synctest, a clock that runs by itself does so at once.
func TestMemoryPassesInRealTime(t *testing.T) {
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				in := openMemory("")
				in.Now, in.Advance, in.Store.(*memory).now = time.Now, time.Sleep, time.Now
				f := newFixture(t, in)
				f.realTime = true
				c.run(f)
				f.auditAll()
			})
		})
	}
}

// fault is something that a store could do wrong.
type fault string

const (
	grantsRevoked   fault = "a revoked key has its grant"
	sharesLimits    fault = "a failed update has written through a pointer"
	growsTooEarly   fault = "the generation grows before the change"
	ignoresClose    fault = "a closed store answers"
	ignoresContext  fault = "a cancelled context admits"
	forgetsWindows  fault = "a restart forgets the windows"
	countsRefused   fault = "a refused request is counted"
	refusesRepeated fault = "a repeated hold is refused with nothing left"
	admitsOneMore   fault = "one more than the limit is admitted"
	secondFirst     fault = "a full second outranks a full minute"
	wantsWholeFee   fault = "half a fee does not admit"
	fixedWindows    fault = "windows have fixed beginnings"
	coarseWindows   fault = "windows move in steps of a twentieth"
	hasTwoOutcomes  fault = "a hold has both outcomes"
	capturesTwice   fault = "a repeated capture charges twice"
	creditsTwice    fault = "a repeated credit is given twice"
	settlesAll      fault = "holds made later are in doubt too"
	overflows       fault = "a credit overflows with what is held"
	racesForMoney   fault = "two racers see the same balance"
)

// Each fault must be found by the checks named here, at least.
func TestFaultsAreFound(t *testing.T) {
	for f, names := range map[fault][]string{
		grantsRevoked:   {"a revoked key has no grant"},
		sharesLimits:    {"a failed update writes nothing"},
		growsTooEarly:   {"a grant read during a change is never taken for the new one"},
		ignoresClose:    {"a closed store says so"},
		ignoresContext:  {"a cancelled context changes nothing"},
		forgetsWindows:  {"windows outlast a restart", "windows are as exact as promised"},
		countsRefused:   {"a refused request changes nothing", "windows are as exact as promised"},
		refusesRepeated: {"a repeated hold is admitted and changes nothing", "random sequences do what a plain model does"},
		admitsOneMore:   {"the quota is what is left after the decision", "one place left admits one of 64 racers", "windows are as exact as promised", "windows are never passed while limits change"},
		secondFirst:     {"the first check that fails is the verdict"},
		wantsWholeFee:   {"a balance of half a fee still admits", "random sequences do what a plain model does"},
		fixedWindows:    {"a window slides", "windows are as exact as promised", "windows are never passed while limits change"},
		coarseWindows:   {"windows are as exact as promised"},
		hasTwoOutcomes:  {"a hold has one outcome", "one of two racing outcomes wins", "random sequences of many at once keep the books"},
		capturesTwice:   {"a repeated capture changes nothing", "random sequences do what a plain model does"},
		creditsTwice:    {"a repeated credit is given once", "one credit id of 64 racers is one credit"},
		settlesAll:      {"only holds made before are in doubt", "balances and open holds outlast a restart"},
		overflows:       {"a credit that does not fit is refused"},
		racesForMoney:   {"one fee left admits one of 64 racers"},
	} {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			for _, name := range names {
				i := slices.IndexFunc(checks, func(c check) bool { return c.name == name })
				if i < 0 {
					t.Fatalf("there is no check %q", name)
				}
				found := false
				for n := 0; n < 30 && !found; n++ { // some find a fault by chance only
					found = fails(t, checks[i], openMemory(f))
				}
				if !found {
					t.Errorf("%q passes", name)
				}
			}
		})
	}
}

// fails runs a check where its failure is no failure of t.
func fails(t *testing.T, c check, in *Instance) bool {
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() { // which a Fatal ends
		defer close(done)
		f := newFixture(r, in)
		c.run(f)
		f.auditAll()
	}()
	<-done
	return r.Failed()
}

// recorder notes failures and keeps them to itself.
type recorder struct {
	testing.TB
	mu     sync.Mutex
	failed bool
}

func (r *recorder) Failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = true
	_ = fmt.Sprintf(format, args...) // must not panic
}

func (r *recorder) Error(args ...any) { r.Errorf("%v", args) }

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

func (r *recorder) Fatal(args ...any) { r.Fatalf("%v", args) }

func (r *recorder) Logf(string, ...any) {}
