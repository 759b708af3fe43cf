package pricing

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// metaMarkets are the lines of Meta's rate card of 2026-10-01.
var metaMarkets = []string{
	"Argentina", "Bangladesh", "Brazil", "Chile", "Colombia", "Egypt", "France", "Germany", "Hong Kong", "Hungary",
	"India", "Indonesia", "Iraq", "Israel", "Italy", "Kazakhstan", "Kuwait", "Malaysia", "Mexico", "Morocco",
	"Nepal", "Netherlands", "Nigeria", "Oman", "Pakistan", "Peru", "Poland", "Qatar", "Romania", "Russia",
	"Saudi Arabia", "Singapore", "South Africa", "Spain", "Sri Lanka", "Turkey", "Ukraine", "United Arab Emirates",
	"United Kingdom", "North America", "Rest of Africa", "Rest of Asia Pacific", "Rest of Central & Eastern Europe",
	"Rest of Latin America", "Rest of Middle East", "Rest of Western Europe", "Other",
}

// newRates is when Meta's last rates in the card took effect.
var newRates = time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)

// codes returns the calling codes of each market of a card.
func codes(c *RateCard) map[string][]string {
	byMarket := map[string][]string{}
	for code, m := range c.markets {
		byMarket[m.name] = append(byMarket[m.name], code)
	}
	return byMarket
}

func TestBuiltInCardPricesEveryMarketAndCategory(t *testing.T) {
	c := DefaultRateCard()
	byMarket := codes(c)
	if len(byMarket) != len(metaMarkets) {
		t.Errorf("%d markets, want %d", len(byMarket), len(metaMarkets))
	}
	// What rates.csv says to be missing.
	missing := strings.Split("Iraq,Kazakhstan,Kuwait,Nepal,Oman,Sri Lanka,Ukraine", ",")
	categories := []string{
		"marketing", "marketing_lite", "utility", "authentication", "authentication_international", "service",
		"referral_conversion", "group_marketing", "group_utility", "group_service",
	}
	for _, market := range metaMarkets {
		if len(byMarket[market]) == 0 {
			t.Errorf("%s has no calling code", market)
			continue
		}
		for _, now := range []time.Time{newRates.AddDate(0, -9, 0), newRates} {
			for _, category := range categories {
				fee := c.Look(byMarket[market][0], category, now)
				known := category != "authentication_international" || !slices.Contains(missing, market)
				if _, priced := fee.Prices["USD"]; !priced || fee.Default() == known || fee.Market != market {
					t.Errorf("%s, %s from %s on: %+v", market, category, now.Format(time.DateOnly), fee)
				}
			}
		}
	}
	for _, category := range append(categories, "default") {
		if fee := c.Look("", category, newRates); fee.Prices["USD"] == 0 && category != "referral_conversion" {
			t.Errorf("%s to nobody known is free: %+v", category, fee)
		}
	}
}

func TestBuiltInCardKeepsItsOwnRules(t *testing.T) {
	c := DefaultRateCard()
	for market, list := range codes(c) {
		price := func(category string, now time.Time) Micros { return c.Look(list[0], category, now).Prices["USD"] }
		for _, now := range []time.Time{newRates.AddDate(0, -9, 0), newRates.Add(-1), newRates} {
			for derived, from := range map[string]string{
				"marketing_lite": "marketing", "group_marketing": "marketing", "group_utility": "utility",
				"authentication": "utility", "group_service": "service",
			} {
				if price(derived, now) != price(from, now) {
					t.Errorf("%s at %s: %s costs %s, %s %s", market, now, derived, price(derived, now), from, price(from, now))
				}
			}
			wantService := price("utility", now)
			if now.Before(newRates) {
				wantService = 0
			}
			if got := price("service", now); got != wantService {
				t.Errorf("%s at %s: service costs %s, want %s", market, now, got, wantService)
			}
			if utility, marketing := price("utility", now), price("marketing", now); utility <= 0 || utility > marketing || marketing > 200_000 {
				t.Errorf("%s at %s: utility costs %s and marketing %s", market, now, utility, marketing)
			}
			if price("authentication_international", now) < price("authentication", now) {
				t.Errorf("%s at %s: authentication is cheaper from abroad", market, now)
			}
		}
	}
}

func TestBuiltInCardPutsNumbersWhereMetaDoes(t *testing.T) {
	for recipient, want := range map[string]string{
		"12025550100":  "North America 0.025",         // Washington
		"14165550100":  "North America 0.025",         // Toronto
		"18765550100":  "Rest of Latin America 0.074", // Jamaica
		"16585550100":  "Rest of Latin America 0.074", // Jamaica
		"18095550100":  "Rest of Latin America 0.074", // Dominican Republic
		"17875550100":  "Rest of Latin America 0.074", // Puerto Rico
		"12425550100":  "Other 0.0604",                // Bahamas
		"79161234567":  "Russia 0.0802",
		"77011234567":  "Kazakhstan 0.0604",
		"4915112345":   "Germany 0.1365",
		"447911123456": "United Kingdom 0.0635",
		"919812345678": "India 0.0118",
		"551199999000": "Brazil 0.0625",
		"541123456789": "Argentina 0.0618",
		"525512345678": "Mexico 0.0397",
		"971501234567": "United Arab Emirates 0.0576",
		"966501234567": "Saudi Arabia 0.0576",
		"965501234567": "Kuwait 0.0792",
		"973361234567": "Rest of Middle East 0.0392",  // Bahrain
		"212612345678": "Morocco 0.0414",              // its own since 2026-10-01
		"213612345678": "Rest of Africa 0.0225",       // Algeria
		"243812345678": "Other 0.0604",                // Democratic Republic of the Congo
		"242061234567": "Rest of Africa 0.0225",       // Republic of the Congo
		"852512345678": "Hong Kong 0.0732",            // its own since 2026-07-01
		"819012345678": "Rest of Asia Pacific 0.0842", // Japan
		"821012345678": "Other 0.0604",                // South Korea
		"420601234567": "Rest of Central & Eastern Europe 0.086",
		"351912345678": "Rest of Western Europe 0.0592",
		"352621123456": "Other 0.0604", // Luxembourg
		"999123456789": "default 0.0604",
		"":             "default 0.0604",
	} {
		fee := DefaultRateCard().Look(recipient, "marketing", newRates)
		if got := fmt.Sprint(fee.Market, " ", fee.Prices["USD"]); got != want && got != want+"0" {
			t.Errorf("%q is %s, want %s", recipient, got, want)
		}
	}
}

func TestBuiltInCardChargesServiceSinceMetaDoes(t *testing.T) {
	c := DefaultRateCard()
	before, after := c.Look("5511999990000", "service", newRates.Add(-1)), c.Look("5511999990000", "service", newRates)
	if before.Prices["USD"] != 0 || before.Default() || after.Prices["USD"] != 6_800 {
		t.Errorf("before %+v, after %+v", before, after)
	}
}

func TestLookDoesNotAllocate(t *testing.T) {
	c, now := DefaultRateCard(), at(t, "2026-11-01T12:00:00Z")
	for _, tc := range []struct{ recipient, category string }{
		{"5511999990000", "marketing"},
		{"+18765550100", "authentication-international"},
		{"999123456789", "utility"},
	} {
		if n := testing.AllocsPerRun(100, func() { c.Look(tc.recipient, tc.category, now) }); n != 0 {
			t.Errorf("%v: %v allocations", tc, n)
		}
	}
}

func BenchmarkLook(b *testing.B) {
	c, now := DefaultRateCard(), at(b, "2026-11-01T12:00:00Z")
	for _, tc := range []struct{ name, recipient, category string }{
		{"country", "5511999990000", "marketing"},
		{"area", "18765550100", "authentication-international"},
		{"unknown market", "999123456789", "utility"},
		{"no phone number", "US.13491208655302741918", "marketing"},
		{"unknown category", "5511999990000", "a_new_category"},
	} {
		b.Run(tc.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.Look(tc.recipient, tc.category, now)
			}
		})
	}
}
