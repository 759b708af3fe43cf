package pricing

import (
	"bufio"
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// rate is one line of a card.
type rate struct {
	line     int
	market   string
	codes    []string // sorted
	category string   // normalized
	price    Micros
	currency string
	from     int64 // midnight UTC, in Unix seconds
}

// maxCodeDigits bounds a calling code with the digits of the network behind it,
// such as the six of 44 7911.
const maxCodeDigits = 7

// byteOrderMark is what some programs put in front of UTF-8.
const byteOrderMark = "\uFEFF"

// columns are the fields of a line, in their order, and how each is read.
var columns = []struct {
	name string
	read func(r *rate, field string) error
}{
	{"market", readMarket},
	{"calling_codes", readCodes},
	{"category", readCategory},
	{"price", readPrice},
	{"currency", readCurrency},
	{"effective_from", readDate},
}

// ParseRateCard reads a card in CSV, in UTF-8 with or without byte order mark.
// The first line is the header
//
//	market,calling_codes,category,price,currency,effective_from
//
// and lines that begin with # are comments. The calling codes are what phone
// numbers of the market begin with, separated by spaces, the same on every line
// of the market; the market default, which is for all other recipients, has
// none. A price is the cost of one message from midnight UTC of the date on,
// until there is a newer one for the same market, category and currency. See
// [RateCard.Look] for what the market default and its category default do.
//
// An error names the line in the file, comments counted, and what is wrong there.
func ParseRateCard(r io.Reader) (*RateCard, error) {
	rates, err := readRates(r)
	if err != nil {
		return nil, err
	}
	return newRateCard(rates), nil
}

// readRates reads and checks all lines of a card.
func readRates(r io.Reader) ([]rate, error) {
	buffered := bufio.NewReader(r)
	if start, _ := buffered.Peek(len(byteOrderMark)); string(start) == byteOrderMark {
		buffered.Discard(len(byteOrderMark))
	}
	in := csv.NewReader(buffered)
	in.Comment = '#'
	in.FieldsPerRecord = -1 // readRate counts them, to say what is missing
	if err := readHeader(in); err != nil {
		return nil, err
	}
	var rates []rate
	earlier := newSeen()
	for {
		record, err := in.Read()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, lineError(err)
		}
		row, err := readRate(in, record)
		if err != nil {
			return nil, err
		}
		if err := earlier.add(row); err != nil {
			return nil, fmt.Errorf("line %d: %w", row.line, err)
		}
		rates = append(rates, row)
	}
	if len(rates) == 0 {
		return nil, errors.New("the rate card has no line but its header")
	}
	return rates, nil
}

func readHeader(in *csv.Reader) error {
	want := make([]string, len(columns))
	for i, column := range columns {
		want[i] = column.name
	}
	header, err := in.Read()
	if err == io.EOF {
		return fmt.Errorf("the rate card is empty; it begins with the header %s", strings.Join(want, ","))
	}
	if err != nil {
		return lineError(err)
	}
	if !slices.Equal(header, want) {
		line, _ := in.FieldPos(0)
		return fmt.Errorf("line %d: the header is %q, not %s", line, strings.Join(header, ","), strings.Join(want, ","))
	}
	return nil
}

// readRate reads the record that was read last.
func readRate(in *csv.Reader, record []string) (rate, error) {
	var r rate
	r.line, _ = in.FieldPos(0)
	if len(record) != len(columns) {
		return r, fmt.Errorf("line %d: number of fields is %d, not %d", r.line, len(record), len(columns))
	}
	for i, column := range columns {
		field := strings.TrimSpace(record[i])
		if err := column.read(&r, field); err != nil {
			line, _ := in.FieldPos(i)
			return r, fmt.Errorf("line %d: %s %q: %w", line, column.name, field, err)
		}
	}
	return r, nil
}

// lineError puts the line of an error of package csv in front, as ours have it.
func lineError(err error) error {
	var parse *csv.ParseError
	if errors.As(err, &parse) {
		return fmt.Errorf("line %d: %w", parse.Line, parse.Err)
	}
	return fmt.Errorf("reading the rate card: %w", err)
}

func readMarket(r *rate, field string) error {
	r.market = field
	if !utf8.ValidString(field) {
		return errors.New("not in UTF-8") // metrics and logs could not carry it
	}
	return notEmpty(field)
}

func readCodes(r *rate, field string) error {
	r.codes = slices.Sorted(slices.Values(strings.Fields(field)))
	if r.market == defaultName && len(r.codes) > 0 {
		return errors.New("the market default has none, it is for everything else")
	}
	if r.market != defaultName && len(r.codes) == 0 {
		return errors.New("only the market default goes without")
	}
	for i, code := range r.codes {
		if len(code) > maxCodeDigits || code[0] == '0' || !isDigits(code) {
			return fmt.Errorf("%q is no calling code: they have 1 to %d digits and no leading 0", code, maxCodeDigits)
		}
		if i > 0 && code == r.codes[i-1] {
			return fmt.Errorf("%s is in there twice", code)
		}
	}
	return nil
}

func readCategory(r *rate, field string) error {
	r.category = normalized(field)
	if r.category == defaultName && r.market != defaultName {
		return errors.New("only the market default has such a category")
	}
	return notEmpty(field)
}

func readPrice(r *rate, field string) error {
	var err error
	r.price, err = Parse(field)
	if err == nil && r.price < 0 {
		return errors.New("a price is not negative")
	}
	return err
}

func readCurrency(r *rate, field string) error {
	r.currency = field
	if len(field) != 3 || strings.Trim(field, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		return errors.New("not three capital letters such as USD")
	}
	return nil
}

func readDate(r *rate, field string) error {
	date, err := time.Parse(time.DateOnly, field)
	if err != nil {
		return errors.New("not a date such as 2026-01-31")
	}
	r.from = date.Unix()
	return nil
}

func notEmpty(field string) error {
	if field == "" {
		return errors.New("must not be empty")
	}
	return nil
}

// seen is what the lines so far have said, with the numbers of these lines.
type seen struct {
	codes   map[string]rate // the first line with the calling code
	markets map[string]rate // the first line of the market
	prices  map[priceKey]int
}

// priceKey is what there can be one price for.
type priceKey struct {
	market, category, currency string
	from                       int64
}

func newSeen() seen {
	return seen{codes: map[string]rate{}, markets: map[string]rate{}, prices: map[priceKey]int{}}
}

// add refuses a line that contradicts an earlier one.
func (s seen) add(r rate) error {
	first, known := s.markets[r.market]
	if known && !slices.Equal(r.codes, first.codes) {
		return fmt.Errorf("market %q has the calling codes %q, which are %q in line %d",
			r.market, strings.Join(r.codes, " "), strings.Join(first.codes, " "), first.line)
	}
	if !known {
		s.markets[r.market] = r
		for _, code := range r.codes {
			if owner, taken := s.codes[code]; taken {
				return fmt.Errorf("calling code %s belongs to market %q since line %d", code, owner.market, owner.line)
			}
			s.codes[code] = r
		}
	}
	key := priceKey{r.market, r.category, r.currency, r.from}
	if line, repeated := s.prices[key]; repeated {
		return fmt.Errorf("market, category, currency and date are those of line %d", line)
	}
	s.prices[key] = r.line
	return nil
}

// newRateCard arranges lines that were checked, whatever their order.
func newRateCard(rates []rate) *RateCard {
	c := &RateCard{
		markets:  map[string]*market{},
		fallback: &market{name: defaultName, groups: map[string]group{}},
	}
	byName := map[string]*market{defaultName: c.fallback}
	slices.SortFunc(rates, func(a, b rate) int { return cmp.Compare(a.from, b.from) })
	for _, r := range rates {
		m := byName[r.market]
		if m == nil {
			m = &market{name: r.market, groups: map[string]group{}}
			byName[r.market] = m
		}
		for _, code := range r.codes {
			c.markets[code] = m
			c.longest = max(c.longest, len(code))
		}
		m.groups[r.category] = m.groups[r.category].with(r)
	}
	for _, category := range slices.Sorted(maps.Keys(c.fallback.groups)) {
		c.fallbacks = append(c.fallbacks, c.fallback.groups[category])
	}
	for _, m := range byName {
		for category, g := range maps.Clone(m.groups) {
			m.groups[strings.ReplaceAll(category, "_", "-")] = g
		}
	}
	return c
}

// with adds a rate that is not older than the group's newest.
func (g group) with(r rate) group {
	if n := len(g); n == 0 || g[n-1].from != r.from {
		prices := map[string]Micros{}
		if n > 0 {
			maps.Copy(prices, g[n-1].prices)
		}
		g = append(g, epoch{from: r.from, prices: prices})
	}
	g[len(g)-1].prices[r.currency] = r.price
	return g
}
