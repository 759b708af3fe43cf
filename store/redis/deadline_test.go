package redis

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// A slow Redis must not cost a step of many round trips many times the timeout.
func TestAStepOfManyRoundTripsHasOneDeadline(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "appendfsync no")
	o := testOptions(t, "single", "", server.URL())
	b := newBooks(t, o)
	other := b.neighbour(false, 10*testFee)
	_, key := someApp(t, b.Store)
	b.hold(b.Store) // the app's home is with the first account
	var w wire
	o.Serving = false
	s := open(t, w.under(o))
	other.hold(s)
	noError(t, s.KeepGrant(t.Context(), tenant.KeyDigest{8}, nil, time.Hour)) // it is connected
	for name, row := range map[string]struct {
		take  step
		trips int
	}{
		"an admission apart": {func() error {
			a := other.admission()
			a.App = b.app
			_, err := s.Admit(t.Context(), a)
			return err
		}, 5},
		"a grant":           {func() error { _, err := s.Grant(t.Context(), key.Digest); return err }, 2},
		"a copy of a grant": {func() error { return s.KeepGrant(t.Context(), tenant.KeyDigest{9}, nil, time.Hour) }, 2},
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			var deadlines []time.Time
			sent := 0
			w.decide(func([]byte) fate {
				mu.Lock()
				defer mu.Unlock()
				sent++
				return arrives
			})
			note := func(at time.Time) {
				mu.Lock()
				defer mu.Unlock()
				if !at.IsZero() { // which takes one away
					deadlines = append(deadlines, at)
				}
			}
			w.deadline.Store(&note)
			err := row.take()
			w.deadline.Store(nil)
			w.heal()
			noError(t, err)
			mu.Lock()
			defer mu.Unlock()
			if sent < row.trips || len(deadlines) < sent {
				t.Errorf("%d round trips and %d deadlines, want %d round trips at least", sent, len(deadlines), row.trips)
			}
			if different := slices.CompactFunc(deadlines, time.Time.Equal); len(different) != 1 {
				t.Errorf("there are %d deadlines, the last %v after the first", len(different), different[len(different)-1].Sub(different[0]))
			}
		})
	}
}
