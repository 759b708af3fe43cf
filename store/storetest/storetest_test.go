package storetest

import (
	"fmt"
	"runtime"
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
		balances: make(map[tenant.AccountID]store.Balance), ids: make(map[string]int), early: make(map[string]earlyFee),
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
