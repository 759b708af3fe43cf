package redis

import (
	"math"
	"math/big"
	"testing"

	"github.com/connexease/caddy-whatsapp-gateway/store/redis/redistest"
)

// FuzzAdd compares the sums that the scripts make of decimal digits with exact ones, in a
// real Redis: nothing else has its Lua.
func FuzzAdd(f *testing.F) {
	edges := []int64{
		0, 1, 9, 1e9 - 1, 1e9, 1e10 - 1, 1e10, 1e10 + 1, 1e15 - 1, 1e15, 1e15 + 1, 1 << 53, 1<<53 + 1,
		9_999_999_999, 19_999_999_999, 9_223_372_030_000_000_000, 9_223_372_036_854_775_806, math.MaxInt64,
	}
	for _, a := range edges {
		for _, b := range edges {
			f.Add(a, b)
			f.Add(a, -b)
			f.Add(-a, b)
			f.Add(-a, -b)
		}
		f.Add(a, int64(math.MinInt64))
		f.Add(int64(math.MinInt64), -a)
	}
	server := redistest.Start(f, "appendonly no")
	s := open(f, testOptions(f, "single", "", server.URL()))
	text, err := scriptFiles.ReadFile("scripts/money.lua")
	noError(f, err)
	sums := newScript(header)
	sums.source += string(text) + "return { add(ARGV[2], ARGV[3]) or 'none', add(ARGV[2], minus(ARGV[3])) or 'none' }"
	sums.sha = command(f, server, "SCRIPT", "LOAD", sums.source).(string)
	f.Fuzz(func(t *testing.T, a, b int64) {
		reply, err := s.run(t.Context(), sums, 0, a, b)
		noError(t, err)
		got := texts(reply)
		x, y := big.NewInt(a), big.NewInt(b)
		for i, exact := range []*big.Int{new(big.Int).Add(x, y), new(big.Int).Sub(x, y)} {
			want := "none"
			if exact.IsInt64() {
				want = exact.String()
			}
			if got[i] != want {
				t.Errorf("%d and %d: sum and difference are %q; %q is wanted", a, b, got, want)
			}
		}
	})
}
