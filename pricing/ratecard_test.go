package pricing

import (
	"errors"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
)

const header = "market,calling_codes,category,price,currency,effective_from\n"

// card parses the lines of a card behind its header.
func card(t testing.TB, lines ...string) *RateCard {
	t.Helper()
	c, err := ParseRateCard(strings.NewReader(header + strings.Join(lines, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func at(t testing.TB, s string) time.Time {
	t.Helper()
	moment, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		t.Fatal(err)
	}
	return moment
}

func usd(micros Micros) map[string]Micros { return map[string]Micros{"USD": micros} }

func TestParseRateCardRefuses(t *testing.T) {
	const good = "Brazil,55,utility,0.01,USD,2026-01-01\n"
	for name, tc := range map[string]struct{ in, want string }{
		"nothing":                  {"", "the rate card is empty"},
		"comments alone":           {"# a\n# b\n", "the rate card is empty"},
		"no line but the header":   {"# a\n" + header + "# b\n", "no line but its header"},
		"no header":                {"# a\n\n" + good, `line 3: the header is "Brazil,55,`},
		"columns out of order":     {"calling_codes,market,category,price,currency,effective_from\n" + good, "line 1: the header is"},
		"a column too many":        {strings.TrimSpace(header) + ",note\n", "line 1: the header is"},
		"capitals in the header":   {"Market,calling_codes,category,price,currency,effective_from\n", "line 1: the header is"},
		"too few fields":           {header + good + "Chile,56,utility,0.01,USD\n", "line 3: number of fields is 5, not 6"},
		"too many fields":          {header + "Chile,56,utility,0.01,USD,2026-01-01,\n", "line 2: number of fields is 7, not 6"},
		"spaces alone":             {header + good + "  \n", "line 3: number of fields is 1, not 6"},
		"quote in a field":         {header + "# a\nChi\"le,56,utility,0.01,USD,2026-01-01\n", `line 3: bare "`},
		"quote that never ends":    {header + "\"Chile,56,utility,0.01,USD,2026-01-01\n", "line 2: extraneous or missing"},
		"quote after a line break": {header + "\"Chi\nle\"x,56,utility,0.01,USD,2026-01-01\n", `line 3: extraneous or missing`},
		"market empty":             {header + "\n# a\n ,56,utility,0.01,USD,2026-01-01\n", `line 4: market "": must not be empty`},
		"market in Latin-1":        {header + "M\xe9xico,52,utility,0.01,USD,2026-01-01\n", `line 2: market "M\xe9xico": not in UTF-8`},
		"category empty":           {header + "Chile,56,,0.01,USD,2026-01-01\n", `line 2: category "": must not be empty`},
		"no calling code":          {header + good + "Chile,,utility,0.01,USD,2026-01-01\n", `line 3: calling_codes "": only the market default`},
		"default calling code":     {header + "default,56,utility,0.01,USD,2026-01-01\n", `line 2: calling_codes "56": the market default has none`},
		"code with a plus":         {header + "Chile,+56,utility,0.01,USD,2026-01-01\n", `line 2: calling_codes "+56": "+56" is no calling code`},
		"code with a leading 0":    {header + "Chile,56 056,utility,0.01,USD,2026-01-01\n", `line 2: calling_codes "56 056": "056" is no calling code`},
		"code that is too long":    {header + "Chile,56123456,utility,0.01,USD,2026-01-01\n", `"56123456" is no calling code: they have 1 to 7 digits`},
		"foreign digits":           {header + "Chile,٥٦,utility,0.01,USD,2026-01-01\n", "is no calling code"},
		"codes with semicolons":    {header + "Chile,56;57,utility,0.01,USD,2026-01-01\n", "is no calling code"},
		"code twice in a line":     {header + "Chile,56 57 56,utility,0.01,USD,2026-01-01\n", "56 is in there twice"},
		"code of two markets":      {header + good + "Chile,56 55,utility,0.01,USD,2026-01-01\n", `line 3: calling code 55 belongs to market "Brazil" since line 2`},
		"codes of a market vary":   {header + good + "# a\nBrazil,55 56,marketing,0.01,USD,2026-01-01\n", `line 4: market "Brazil" has the calling codes "55 56", which are "55" in line 2`},
		"price no number":          {header + good + "Brazil,55,marketing,x,USD,2026-01-01\n", `line 3: price "x": amount "x" is not a decimal`},
		"price empty":              {header + "Chile,56,utility,,USD,2026-01-01\n", `line 2: price "": `},
		"price negative":           {header + "Chile,56,utility,-0.000001,USD,2026-01-01\n", `line 2: price "-0.000001": a price is not negative`},
		"price with a comma":       {header + "Chile,56,utility,\"0,01\",USD,2026-01-01\n", `line 2: price "0,01": amount`},
		"price out of range":       {header + "Chile,56,utility,9223372036855,USD,2026-01-01\n", ErrOverflow.Error()},
		"price too fine":           {header + "Chile,56,utility,0.0000001,USD,2026-01-01\n", "more than 6 digits"},
		"currency in lower case":   {header + "Chile,56,utility,1,usd,2026-01-01\n", `line 2: currency "usd": not three capital letters`},
		"currency of two letters":  {header + "Chile,56,utility,1,US,2026-01-01\n", `line 2: currency "US": not three capital letters`},
		"currency with a digit":    {header + "Chile,56,utility,1,U5D,2026-01-01\n", `line 2: currency "U5D": not three capital letters`},
		"date impossible":          {header + "Chile,56,utility,1,USD,2026-02-29\n", `line 2: effective_from "2026-02-29": not a date`},
		"date with a time":         {header + "Chile,56,utility,1,USD,2026-01-01T00:00:00Z\n", `line 2: effective_from "2026-01-01T00:00:00Z": not a date`},
		"date empty":               {header + "Chile,56,utility,1,USD,\n", `line 2: effective_from "": not a date`},
		"the same line twice":      {header + good + "# a\n" + good, "line 4: market, category, currency and date are those of line 2"},
		"the same, spelled anew":   {header + "Chile,56,a-b,1,USD,2026-01-01\nChile,56,A_B,2,USD,2026-01-01\n", "line 3: market, category, currency and date are those of line 2"},
		"category default":         {header + "Chile,56,Default,1,USD,2026-01-01\n", `line 2: category "Default": only the market default`},
		"line breaks in quotes":    {header + "\"Ch\nile\",56,utility,1,USD,2026-01-01\nPeru,51,utility,1,US,2026-01-01\n", `line 4: currency "US"`},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := ParseRateCard(strings.NewReader(tc.in))
			if err == nil {
				t.Fatalf("accepted as %d calling codes, want %q", len(c.markets), tc.want)
			}
			if matches := strings.Index(err.Error(), tc.want); matches < 0 || matches > 0 && strings.HasPrefix(tc.want, "line ") {
				t.Errorf("%q, want %q", err, tc.want)
			}
		})
	}
}

func TestParseRateCardSaysWhatTheReaderSaid(t *testing.T) {
	broken := errors.New("disk on fire")
	if _, err := ParseRateCard(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("%v, want %v", err, broken)
	}
}

func TestParseRateCardTakesWhatSpreadsheetsWrite(t *testing.T) {
	plain := "# a comment, with \"quotes\n" + header + "\nChile,56 5699,authentication-international,0.02,USD,2026-01-01\n#\nChile,56 5699,utility,0.01,USD,2026-01-01"
	want, err := ParseRateCard(strings.NewReader(plain))
	if err != nil {
		t.Fatal(err)
	}
	for name, in := range map[string]string{
		"byte order mark":    byteOrderMark + plain,
		"CRLF":               strings.ReplaceAll(plain, "\n", "\r\n"),
		"both":               byteOrderMark + strings.ReplaceAll(plain, "\n", "\r\n") + "\r\n",
		"quotes":             strings.ReplaceAll(plain, "Chile,", `"Chile",`),
		"spaces":             strings.ReplaceAll(plain, "Chile,56 5699,", " Chile , 5699  56 , "),
		"another order":      header + "Chile,5699 56,utility,0.01,USD,2026-01-01\nChile,56 5699,Authentication_International,0.020,USD,2026-01-01\n",
		"one byte at a time": plain,
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseRateCard(iotest.OneByteReader(strings.NewReader(in)))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(RateCard{}, market{}, epoch{})); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestLongestCallingCodeDecides(t *testing.T) {
	c := card(t,
		"America,1,m,1,USD,2026-01-01",
		"Islands,1876 1809,m,2,USD,2026-01-01",
		"Town,1809555,m,3,USD,2026-01-01",
		"default,,m,9,USD,2026-01-01",
	)
	for recipient, market := range map[string]string{
		"12025550100":          "America",
		"+12025550100":         "America",
		"18765550100":          "Islands",
		"+18095540100":         "Islands",
		"18095550100":          "Town",
		"1809555":              "Town",
		"180":                  "America",
		"1":                    "America",
		"123456789012345":      "America",
		"1234567890123456":     "default", // longer than any phone number
		"999":                  "default",
		"0012025550100":        "default",
		"":                     "default",
		"+":                    "default",
		"++12025550100":        "default",
		"1 202 555 0100":       "default",
		"1202555010x":          "default",
		"US.13491208655302741": "default",
		"US.ENT.1349120865530": "default",
		"Y2FwaV9ncm91cDoxMjM=": "default",
		"12036304@g.us":        "default",
		"١٢٠٢٥٥٥٠١٠٠":          "default",
	} {
		fee := c.Look(recipient, "m", at(t, "2026-06-01T00:00:00Z"))
		if fee.Market != market || fee.UnknownMarket != (market == "default") || fee.UnknownCategory {
			t.Errorf("%q is in %+v, want market %s", recipient, fee, market)
		}
		want := map[string]Micros{"America": 1_000_000, "Islands": 2_000_000, "Town": 3_000_000, "default": 9_000_000}[market]
		if diff := cmp.Diff(usd(want), fee.Prices); diff != "" {
			t.Errorf("%q: -want +got\n%s", recipient, diff)
		}
	}
}

func TestNewestEffectivePriceCounts(t *testing.T) {
	c := card(t,
		"Chile,56,m,3,USD,2026-10-01",
		"Chile,56,m,1,USD,2026-01-01",
		"Chile,56,m,10,EUR,2026-04-01",
		"Chile,56,m,2,USD,2026-07-01",
		"Chile,56,m,0,EUR,2026-10-01",
		"default,,m,99,USD,2020-01-01",
	)
	for _, tc := range []struct {
		now     string
		want    map[string]Micros
		unknown bool
	}{
		{"2019-12-31T23:59:59.999999999Z", map[string]Micros{}, true},
		{"2025-12-31T23:59:59.999999999Z", usd(99_000_000), true}, // no price of Chile is in effect yet
		{"2026-01-01T00:00:00Z", usd(1_000_000), false},
		{"2026-03-31T23:59:59.999999999Z", usd(1_000_000), false},
		{"2026-04-01T00:00:00Z", map[string]Micros{"USD": 1_000_000, "EUR": 10_000_000}, false},
		{"2026-06-30T23:59:59Z", map[string]Micros{"USD": 1_000_000, "EUR": 10_000_000}, false},
		{"2026-07-01T01:59:59+02:00", map[string]Micros{"USD": 1_000_000, "EUR": 10_000_000}, false},
		{"2026-07-01T02:00:00+02:00", map[string]Micros{"USD": 2_000_000, "EUR": 10_000_000}, false},
		{"2026-06-30T20:00:00-04:00", map[string]Micros{"USD": 2_000_000, "EUR": 10_000_000}, false},
		{"2026-10-01T00:00:00.000000001Z", map[string]Micros{"USD": 3_000_000, "EUR": 0}, false},
		{"2126-01-01T00:00:00Z", map[string]Micros{"USD": 3_000_000, "EUR": 0}, false},
	} {
		fee := c.Look("56221234567", "m", at(t, tc.now))
		if diff := cmp.Diff(Fee{Market: "Chile", Prices: tc.want, UnknownCategory: tc.unknown}, fee); diff != "" {
			t.Errorf("%s: -want +got\n%s", tc.now, diff)
		}
	}
}

func TestDefaultRowIsChargedAndReported(t *testing.T) {
	chile := "Chile,56,m,1,USD,2026-01-01"
	for name, tc := range map[string]struct {
		lines               []string
		recipient, category string
		want                Fee
	}{
		"the category of default": {
			[]string{chile, "default,,u,2,USD,2026-01-01", "default,,default,3,USD,2026-01-01", "default,,x,9,USD,2026-01-01"},
			"56", "u", Fee{Market: "Chile", Prices: usd(2_000_000), UnknownCategory: true},
		},
		"the category default": {
			[]string{chile, "default,,u,2,USD,2026-01-01", "default,,default,3,USD,2026-01-01", "default,,x,9,USD,2026-01-01"},
			"56", "new", Fee{Market: "Chile", Prices: usd(3_000_000), UnknownCategory: true},
		},
		"the dearest": {
			[]string{chile, "default,,u,2,USD,2026-01-01", "default,,x,9,USD,2026-01-01", "default,,default,1,USD,2027-01-01"},
			"56", "new", Fee{Market: "Chile", Prices: usd(9_000_000), UnknownCategory: true},
		},
		"the dearest now": {
			[]string{chile, "default,,u,2,USD,2026-01-01", "default,,x,9,USD,2027-01-01", "default,,y,9,USD,2026-01-01", "default,,y,1,USD,2026-02-01"},
			"56", "new", Fee{Market: "Chile", Prices: usd(2_000_000), UnknownCategory: true},
		},
		"the dearest in any currency": {
			[]string{chile, "default,,a,2,USD,2026-01-01", "default,,b,1,USD,2026-01-01", "default,,b,9,MXN,2026-01-01"},
			"56", "new", Fee{Market: "Chile", Prices: map[string]Micros{"USD": 1_000_000, "MXN": 9_000_000}, UnknownCategory: true},
		},
		"the first of the dearest": {
			[]string{chile, "default,,a1,2,EUR,2026-01-01", "default,,a_b,2,USD,2026-01-01", "default,,ab,2,MXN,2026-01-01"},
			"56", "new", Fee{Market: "Chile", Prices: map[string]Micros{"EUR": 2_000_000}, UnknownCategory: true},
		},
		"free is a price": {
			[]string{chile, "Chile,56,u,0,USD,2026-01-01", "default,,u,2,USD,2026-01-01"},
			"56", "u", Fee{Market: "Chile", Prices: usd(0)},
		},
		"free as the dearest": {
			[]string{chile, "default,,u,0,USD,2026-01-01"},
			"56", "new", Fee{Market: "Chile", Prices: usd(0), UnknownCategory: true},
		},
		"no category": {
			[]string{chile, "default,,default,3,USD,2026-01-01"},
			"56", "", Fee{Market: "Chile", Prices: usd(3_000_000), UnknownCategory: true},
		},
		"no default row": {
			[]string{chile}, "56", "u", Fee{Market: "Chile", Prices: map[string]Micros{}, UnknownCategory: true},
		},
		"no default row in effect": {
			[]string{chile, "default,,u,2,USD,2027-01-01"},
			"56", "u", Fee{Market: "Chile", Prices: map[string]Micros{}, UnknownCategory: true},
		},
		"unknown market": {
			[]string{chile, "default,,m,2,USD,2026-01-01"},
			"57", "m", Fee{Market: "default", Prices: usd(2_000_000), UnknownMarket: true},
		},
		"unknown market and category": {
			[]string{chile, "default,,u,2,USD,2026-01-01", "default,,default,3,USD,2026-01-01"},
			"57", "m", Fee{Market: "default", Prices: usd(3_000_000), UnknownMarket: true, UnknownCategory: true},
		},
		"unknown market without default row": {
			[]string{chile}, "57", "m", Fee{Market: "default", Prices: map[string]Micros{}, UnknownMarket: true, UnknownCategory: true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			fee := card(t, tc.lines...).Look(tc.recipient, tc.category, at(t, "2026-06-01T12:00:00Z"))
			if diff := cmp.Diff(tc.want, fee); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if fee.Prices == nil {
				t.Error("prices are nil, which says that there is nothing to charge")
			}
			if want := tc.want.UnknownMarket || tc.want.UnknownCategory; fee.Default() != want {
				t.Errorf("Default() = %v, want %v", fee.Default(), want)
			}
		})
	}
}

func TestCategoryIsKnownInEverySpelling(t *testing.T) {
	for _, written := range []string{"authentication_international", "authentication-international", "Authentication-International"} {
		c := card(t, "Chile,56,"+written+",1,USD,2026-01-01")
		for _, asked := range []string{"authentication_international", "authentication-international", "AUTHENTICATION_INTERNATIONAL"} {
			if fee := c.Look("56", asked, at(t, "2026-06-01T00:00:00Z")); fee.Default() || fee.Prices["USD"] != 1_000_000 {
				t.Errorf("written %s, asked for %s: %+v", written, asked, fee)
			}
		}
	}
}

var lineNumber = regexp.MustCompile(`^line (\d+): `)

func FuzzParseRateCard(f *testing.F) {
	for _, seed := range []string{
		"", header, "#\n" + header, byteOrderMark + header + "default,,default,1,USD,2026-01-01\r\n",
		header + "A,1 12,a-b,0.5,USD,2026-01-01\nA,12 1,a_b,0,USD,2026-01-02\ndefault,,x,3,EUR,2026-01-01\n",
		header + "A,1,a,-0,USD,0000-01-01\n", header + "A,1,a,-1,USD,2026-01-01\n",
		header + "\"A\nB\",1,a,1,USD,9999-12-31\nC,1,a,1,USD,2026-01-01\n", header + "A,1,a,1,USD\n", header + "\"A",
		header + "A,1,a,1,USD,2026-01-01\nA,1,A,2,USD,2026-01-01\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		c, err := ParseRateCard(strings.NewReader(in))
		if err != nil {
			if match := lineNumber.FindStringSubmatch(err.Error()); match != nil {
				if n, _ := strconv.Atoi(match[1]); n < 1 || n > 1+strings.Count(in, "\n") {
					t.Fatalf("%v, of %d lines", err, 1+strings.Count(in, "\n"))
				}
			}
			return
		}
		end := time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)
		check := func(recipient, category string, now time.Time) Fee {
			fee := c.Look(recipient, category, now)
			if fee.Prices == nil {
				t.Fatalf("%q, %q: nil prices", recipient, category)
			}
			for currency, price := range fee.Prices {
				if price < 0 || len(currency) != 3 {
					t.Fatalf("%q, %q: %s %s", recipient, category, price, currency)
				}
			}
			return fee
		}
		check("", in, end)
		check(in, "marketing", time.Time{})
		for code, m := range c.markets {
			for category := range m.groups {
				if fee := check(code, category, end); fee.Default() || fee.Market != m.name {
					t.Fatalf("%s, %q of market %q costs %+v", code, category, m.name, fee)
				}
			}
		}
		for category := range c.fallback.groups {
			if fee := check("no number", category, end); !fee.UnknownMarket || fee.UnknownCategory {
				t.Fatalf("%q of the market default costs %+v", category, fee)
			}
		}
	})
}
