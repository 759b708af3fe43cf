// Package pricing knows what things cost: amounts of money as exact integers
// and their decimal notation. It does no I/O.
package pricing

import (
	"errors"
	"fmt"
	"math"
	"strings"
)

// Micros is an amount of money in millionths of the account's currency, so
// that 1.50 USD is 1_500_000. It may be negative (a correction). The zero
// value is no money. JSON carries it as the decimal string of [Micros.String].
type Micros int64

// decimals is the number of digits behind the point that a Micros can hold.
const decimals = 6

// unit is one whole unit of the currency.
const unit = 1_000_000

// ErrOverflow means that an amount does not fit 64 bits: it is over some nine
// trillion units of the currency.
var ErrOverflow = errors.New("amount is out of range")

// Parse reads a plain decimal such as "25", "0.001" or "-3.5". It refuses an
// exponent, a digit grouping, a sign other than one leading minus, more than
// six digits behind the point, and what does not fit ([ErrOverflow]).
func Parse(s string) (Micros, error) {
	digits, negative := strings.CutPrefix(s, "-")
	whole, fraction, hasPoint := strings.Cut(digits, ".")
	if whole == "" || hasPoint && fraction == "" {
		return 0, fmt.Errorf("amount %q is not a decimal number such as 25.00", s)
	}
	if len(fraction) > decimals {
		return 0, fmt.Errorf("amount %q has more than %d digits behind the point", s, decimals)
	}
	var n int64 // negative all along, because the smallest int64 has no positive twin
	for _, c := range whole + fraction + strings.Repeat("0", decimals-len(fraction)) {
		if c < '0' || c > '9' {
			return 0, fmt.Errorf("amount %q is not a decimal number such as 25.00", s)
		}
		d := int64(c - '0')
		if n < (math.MinInt64+d)/10 {
			return 0, fmt.Errorf("amount %q: %w", s, ErrOverflow)
		}
		n = n*10 - d
	}
	if negative {
		return Micros(n), nil
	}
	if n == math.MinInt64 {
		return 0, fmt.Errorf("amount %q: %w", s, ErrOverflow)
	}
	return Micros(-n), nil
}

// String writes the amount with at least two and at most six digits behind
// the point, as in "25.00" and "0.001". [Parse] reads it back to the same value.
func (m Micros) String() string {
	sign, magnitude := "", uint64(m)
	if m < 0 {
		sign, magnitude = "-", -magnitude
	}
	fraction := fmt.Sprintf("%06d", magnitude%unit)
	for len(fraction) > 2 && fraction[len(fraction)-1] == '0' {
		fraction = fraction[:len(fraction)-1]
	}
	return fmt.Sprintf("%s%d.%s", sign, magnitude/unit, fraction)
}

// Add returns m + n, or [ErrOverflow].
func (m Micros) Add(n Micros) (Micros, error) {
	sum := m + n
	if (sum > m) != (n > 0) && n != 0 {
		return 0, ErrOverflow
	}
	return sum, nil
}

// MarshalText writes the decimal notation.
func (m Micros) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads the decimal notation, as [Parse] does.
func (m *Micros) UnmarshalText(text []byte) error {
	parsed, err := Parse(string(text))
	if err != nil {
		return err
	}
	*m = parsed
	return nil
}
