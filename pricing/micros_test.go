package pricing

import (
	"errors"
	"math"
	"math/big"
	"testing"
)

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want Micros
		out  string
	}{
		{"0", 0, "0.00"},
		{"-0", 0, "0.00"},
		{"25", 25_000_000, "25.00"},
		{"25.00", 25_000_000, "25.00"},
		{"0.001", 1_000, "0.001"},
		{"0.000001", 1, "0.000001"},
		{"-3.5", -3_500_000, "-3.50"},
		{"00012.5", 12_500_000, "12.50"},
		{"9223372036854.775807", math.MaxInt64, "9223372036854.775807"},
		{"-9223372036854.775808", math.MinInt64, "-9223372036854.775808"},
	} {
		got, err := Parse(tc.in)
		if err != nil || got != tc.want {
			t.Errorf("Parse(%q) = %d, %v; want %d", tc.in, got, err, tc.want)
		}
		if got.String() != tc.out {
			t.Errorf("Micros(%d).String() = %q, want %q", got, got, tc.out)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, in := range []string{
		"", "-", ".", "1.", ".5", "--1", "+1", "1e3", "1,000", " 1", "1 ", "0x10", "1.0000001", "1.2.3", "١", "NaN", "Inf",
	} {
		if got, err := Parse(in); err == nil {
			t.Errorf("Parse(%q) = %v, want an error", in, got)
		}
	}
	for _, in := range []string{"9223372036854.775808", "-9223372036854.775809", "99999999999999999999999"} {
		if _, err := Parse(in); !errors.Is(err, ErrOverflow) {
			t.Errorf("Parse(%q): %v, want ErrOverflow", in, err)
		}
	}
}

func TestAddNeverWrapsAround(t *testing.T) {
	edge := []Micros{math.MinInt64, math.MinInt64 + 1, -1, 0, 1, math.MaxInt64 - 1, math.MaxInt64}
	for _, a := range edge {
		for _, b := range edge {
			exact := new(big.Int).Add(big.NewInt(int64(a)), big.NewInt(int64(b)))
			sum, err := a.Add(b)
			if exact.IsInt64() != (err == nil) || err == nil && int64(sum) != exact.Int64() {
				t.Errorf("%d + %d = %d, %v; exact %v", a, b, sum, err, exact)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"0", "25.00", "-0.001", "9223372036854.775807", "1e9", "", "-", "0.0000001"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := Parse(s)
		if err != nil {
			return
		}
		exact, ok := new(big.Rat).SetString(s)
		if !ok || exact.Cmp(big.NewRat(int64(m), unit)) != 0 {
			t.Fatalf("Parse(%q) = %d micros, which is not the number written", s, int64(m))
		}
		again, err := Parse(m.String())
		if err != nil || again != m {
			t.Fatalf("%d is written %q and read back as %d, %v", int64(m), m, int64(again), err)
		}
	})
}
