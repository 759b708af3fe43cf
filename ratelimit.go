package gateway

import (
	"context"
	"net/http"
	"strconv"

	"github.com/connexease/caddy-whatsapp-gateway/store"
)

// rateParams are the params of RATE_001.
type rateParams struct {
	// LimitType is the window that is full, "sec" or "min".
	LimitType string `json:"limit_type"`
	// RetryAfter is how long to wait, in seconds, such as "1s".
	RetryAfter string `json:"retry_after"`
}

// windowNames are what clients know the two windows by, and how long each is in
// whole seconds.
var windowNames = map[store.Verdict]struct{ limitType, seconds string }{
	store.OverSecond: {"sec", "1"},
	store.OverMinute: {"min", "60"},
}

// overLimit is the failure for a window that is full, v being which one.
func overLimit(w http.ResponseWriter, v store.Verdict) *failure {
	window := windowNames[v]
	w.Header().Set("Retry-After", window.seconds)
	f := rateExceeded.as(nil)
	f.params = rateParams{LimitType: window.limitType, RetryAfter: window.seconds + "s"}
	return f
}

// quotaHeaders are those that tell what [writeQuota] does.
var quotaHeaders = [...]string{"X-Ratelimit-Sec-Limit", "X-Ratelimit-Sec-Remaining", "X-Ratelimit-Min-Limit", "X-Ratelimit-Min-Remaining"}

// writeQuota tells the client what is left of both windows.
func writeQuota(w http.ResponseWriter, values *headerValues, d store.Decision) {
	digits := make([]byte, 0, 80)
	var ends [len(quotaHeaders)]int
	for i, n := range [len(quotaHeaders)]int{d.Second.Limit, d.Second.Remaining, d.Minute.Limit, d.Minute.Remaining} {
		digits = strconv.AppendInt(digits, int64(n), 10)
		ends[i] = len(digits)
	}
	text, start := string(digits), 0
	for i, end := range ends {
		w.Header()[quotaHeaders[i]] = values.of(text[start:end])
		start = end
	}
}

// Admit implements [store.Store]. It counts what was judged by this gateway's share
// alone, because its store is away, and tells when that begins and ends.
func (s *sharedStore) Admit(ctx context.Context, a store.Admission) (store.Decision, error) {
	d, err := s.Store.Admit(ctx, a)
	switch {
	case d.ByShare:
		metrics.admissionsByShare.Inc()
		if s.byShare.CompareAndSwap(false, true) {
			s.log().Warn("the store is away: rates are judged by this gateway's share of the limits, and nothing is charged")
		}
	case err == nil && s.byShare.Load() && s.byShare.CompareAndSwap(true, false):
		s.log().Info("the store is back: rates are judged by the whole limits")
	}
	return d, err
}
