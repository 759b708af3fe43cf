package pricing

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// randomRow is a line of a random card, as the plain model below reads it.
type randomRow struct {
	market, category, currency string
	codes                      []string
	price                      Micros
	from                       time.Time
}

var phoneNumber = regexp.MustCompile(`^\+?[0-9]{1,15}$`)

// modelLook does what Look promises, by going through all lines again and again.
func modelLook(rows []randomRow, recipient, category string, now time.Time) Fee {
	plain := func(s string) string { return strings.ReplaceAll(strings.ToLower(s), "-", "_") }
	effective := func(market, category string) map[string]Micros {
		newest := map[string]randomRow{}
		for _, row := range rows {
			if row.market != market || plain(row.category) != plain(category) || row.from.After(now) {
				continue
			}
			if had, ok := newest[row.currency]; !ok || had.from.Before(row.from) {
				newest[row.currency] = row
			}
		}
		prices := map[string]Micros{}
		for currency, row := range newest {
			prices[currency] = row.price
		}
		return prices
	}
	fee := Fee{Market: "default", UnknownMarket: true}
	longest := 0
	if phoneNumber.MatchString(recipient) {
		for _, row := range rows {
			for _, code := range row.codes {
				if strings.HasPrefix(strings.TrimPrefix(recipient, "+"), code) && len(code) > longest {
					longest, fee.Market, fee.UnknownMarket = len(code), row.market, false
				}
			}
		}
	}
	if fee.Prices = effective(fee.Market, category); len(fee.Prices) > 0 {
		return fee
	}
	fee.UnknownCategory = true
	for _, category := range []string{category, "default"} {
		if fee.Prices = effective("default", category); len(fee.Prices) > 0 {
			return fee
		}
	}
	var names []string
	for _, row := range rows {
		names = append(names, plain(row.category))
	}
	highest := Micros(-1)
	for _, name := range slices.Compact(slices.Sorted(slices.Values(names))) {
		prices := effective("default", name)
		if len(prices) == 0 {
			continue
		}
		if top := slices.Max(slices.Collect(maps.Values(prices))); top > highest {
			highest, fee.Prices = top, prices
		}
	}
	return fee
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// randomCard makes a card of few codes, days and prices, so that prefixes nest,
// boundaries are hit and prices tie.
func randomCard(r *rand.Rand) (rows []randomRow, text string) {
	var codes [4][]string
	for _, code := range []string{"1", "12", "121", "1212121", "2", "21", "211", "22"} {
		owner := r.IntN(len(codes) + 1) // the last takes none
		if owner < len(codes) {
			codes[owner] = append(codes[owner], code)
		}
	}
	var b strings.Builder
	b.WriteString(header)
	taken := map[string]bool{}
	for range 1 + r.IntN(40) {
		owner := r.IntN(len(codes) + 1)
		row := randomRow{
			market:   "default",
			category: pick(r, "marketing", "utility", "a-b", "A_B", "default"),
			currency: pick(r, "USD", "EUR"),
			price:    Micros(r.IntN(4)),
			from:     time.Date(2026, 1, 1+r.IntN(4), 0, 0, 0, 0, time.UTC),
		}
		if owner < len(codes) {
			row.market, row.codes = fmt.Sprintf("market %d", owner), codes[owner]
		}
		key := fmt.Sprint(row.market, normalized(row.category), row.currency, row.from)
		if taken[key] || row.market != "default" && (row.category == "default" || len(row.codes) == 0) {
			continue
		}
		taken[key] = true
		rows = append(rows, row)
		shuffled := slices.Clone(row.codes)
		r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		fmt.Fprintf(&b, "%s,%s,%s,%s,%s,%s\n", row.market, strings.Join(shuffled, " "), row.category, row.price, row.currency, row.from.Format(time.DateOnly))
	}
	return rows, b.String()
}

func TestLookEqualsAPlainModel(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	looks := 0
	for range 500 {
		rows, text := randomCard(r)
		if len(rows) == 0 {
			continue
		}
		c, err := ParseRateCard(strings.NewReader(text))
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		for range 40 {
			digits := make([]byte, r.IntN(18))
			for i := range digits {
				digits[i] = pick[byte](r, '1', '1', '2', '2', '3')
			}
			recipient := pick(r, "", "", "", "+", "US.") + string(digits)
			category := pick(r, "marketing", "Utility", "a_b", "a-b", "default", "service", "")
			now := time.Date(2025, 12, 31+r.IntN(6), 0, 0, 0, 0, time.UTC).
				Add(pick(r, 0, -1, 1, time.Duration(r.Int64N(int64(24*time.Hour))))).
				In(time.FixedZone("", r.IntN(24*3600)-12*3600))
			want, got := modelLook(rows, recipient, category, now), c.Look(recipient, category, now)
			if !cmp.Equal(want, got) {
				t.Fatalf("%q, %q at %s in\n%s\n-model +got\n%s", recipient, category, now, text, cmp.Diff(want, got))
			}
			looks++
		}
	}
	if looks < 15_000 {
		t.Errorf("%d looks say little", looks)
	}
}
