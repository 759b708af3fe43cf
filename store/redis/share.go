package redis

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/window"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// maxShares bounds the windows that are counted while Redis is away.
const maxShares = 100_000

// share is the rate that this gateway allows by itself while Redis is away: its
// part of the limits, by the number of gateways that were there last. Nothing is sent
// meanwhile; but who asks too often is told so, and not to ask again at once.
type share struct {
	gateways atomic.Int64

	mu      sync.Mutex
	epoch   time.Time
	windows map[tenant.AppID]*window.Windows
}

// admit judges the rate, and otherwise returns why nothing can be admitted.
func (s *share) admit(a store.Admission, now time.Time, why error) (store.Decision, error) {
	n := int(max(1, s.gateways.Load()))
	limits := tenant.RateLimit{PerSecond: max(1, a.Limits.PerSecond/n), PerMinute: max(1, a.Limits.PerMinute/n)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.windows == nil || len(s.windows) >= maxShares {
		s.windows, s.epoch = make(map[tenant.AppID]*window.Windows), now
	}
	ws := s.windows[a.App]
	if ws == nil {
		ws = new(window.Windows)
		s.windows[a.App] = ws
	}
	at := now.Sub(s.epoch)
	ws.Expire(at)
	d := store.Decision{
		Second: store.Quota{Limit: a.Limits.PerSecond, Remaining: max(0, limits.PerSecond-ws.Second.Total)},
		Minute: store.Quota{Limit: a.Limits.PerMinute, Remaining: max(0, limits.PerMinute-ws.Minute.Total)},
	}
	switch {
	case d.Minute.Remaining == 0:
		d.Verdict = store.OverMinute
		return d, nil
	case d.Second.Remaining == 0:
		d.Verdict = store.OverSecond
		return d, nil
	case a.Mode == store.Check:
		return d, why
	}
	ws.Add(at, limits.PerSecond, limits.PerMinute)
	d.Second.Remaining--
	d.Minute.Remaining--
	return d, why
}

var gatewaysScript = newScript(headerAlways, "scripts/gateways.lua")

// heartbeat is how often a gateway says that it is there. One that has not for 10 s
// is taken to be gone.
const heartbeat = 2 * time.Second

// countGateways keeps the number of gateways up to date until the store is closed.
func (s *Store) countGateways() {
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	for {
		if reply, err := s.run(s.closing, gatewaysScript, 0, s.id, "0"); err == nil {
			if n, ok := reply.(int64); ok {
				s.share.gateways.Store(n)
			}
		}
		select {
		case <-tick.C:
		case <-s.closing.Done():
			ctx, cancel := context.WithTimeout(context.Background(), s.timeout)
			defer cancel()
			_, _ = s.eval(ctx, gatewaysScript, 0, []any{s.id, "1"}) // without, the others find out by themselves
			return
		}
	}
}
