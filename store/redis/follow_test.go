package redis

import (
	"math"
	"testing"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
)

// Versions may be nanoseconds, of which a double cannot tell two apart.
func TestVersionsThatDifferByOneAreToldApart(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	b := newBooks(t, testOptions(t, "single", "", server.URL()))
	var total pricing.Micros
	var newest int64
	follow := func(version int64) {
		t.Helper()
		was, err := b.Balance(t.Context(), b.account)
		noError(t, err)
		difference := pricing.Micros(0)
		if version > newest {
			difference, newest = testFee, version
		}
		noError(t, b.Follow(t.Context(), store.Total{Account: b.account, Currency: "USD", Credited: total + testFee, Version: version}))
		total += difference
		is, err := b.Balance(t.Context(), b.account)
		noError(t, err)
		if is.Available != was.Available+difference {
			t.Errorf("version %d has credited %d, want %d", version, is.Available-was.Available, difference)
		}
	}
	for _, version := range []int64{
		9, 10, 9, 99, 100, 99, 1 << 53, 1<<53 + 1, 1 << 53, 1<<53 + 1,
		1_795_367_899_123_456_789, 1_795_367_899_123_456_790, 1_795_367_899_123_456_789,
		math.MaxInt64 - 1, math.MaxInt64, math.MaxInt64 - 1, math.MaxInt64, 1,
	} {
		follow(version)
	}
	b.audit()
}
