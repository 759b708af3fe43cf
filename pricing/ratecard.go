package pricing

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// RateCard says what Meta charges for one delivered message: by the market that
// the recipient's calling code belongs to, by Meta's pricing category, and by
// the day, because rates change. [ParseRateCard] makes one. It is never changed
// afterwards and safe for concurrent use; there is no useful zero value.
type RateCard struct {
	// markets has each market under each of its calling codes.
	markets map[string]*market
	// longest is the number of digits of the longest calling code.
	longest int
	// fallback is the market named default; it has no groups in a card without one.
	fallback *market
	// fallbacks are the groups of fallback in the order of their categories' names.
	fallbacks []group
}

// market is the countries that share their prices.
type market struct {
	name string
	// groups has the prices by category, under both spellings of its name: with
	// underscores and with hyphens.
	groups map[string]group
}

// group is the prices of one category in one market, the oldest first.
type group []epoch

// epoch is the prices from one day on, up to the next epoch of the group. They
// are complete: a currency whose price does not change that day is in there too.
type epoch struct {
	from   int64 // midnight UTC, in Unix seconds
	prices map[string]Micros
}

// Fee is the price of one message.
type Fee struct {
	// Market is that of the recipient, "default" where it is unknown. The market
	// default is the one charged wherever [Fee.Default] is true.
	Market string
	// Prices has the price by currency. It belongs to the card and must not be
	// changed. It is never nil; it is empty where the card has no price at all.
	Prices map[string]Micros
	// UnknownMarket means that the recipient is no phone number, or that no market
	// of the card has its calling code.
	UnknownMarket bool
	// UnknownCategory means that the market has no price in effect for the category.
	UnknownCategory bool
}

// Default reports that the card does not price the message itself, and that a
// row of its market default was charged instead. An operator wants to know.
func (f Fee) Default() bool { return f.UnknownMarket || f.UnknownCategory }

const (
	// defaultName is the market for every recipient that no other market has, and
	// in that market the category for every category that has no row there.
	defaultName = "default"

	// maxPhoneDigits is the length of the longest phone number, by ITU-T E.164.
	maxPhoneDigits = 15
)

// noPrices is what a message costs that a card without default does not price.
var noPrices = map[string]Micros{}

// Look returns the price of one message delivered at the time now. The recipient
// is Meta's recipient_id: the digits of a phone number, perhaps behind a plus
// sign. Anything else, such as nothing, a business-scoped user id ("US.1349…")
// or a group's id, is an unknown market. The category may be spelled with
// hyphens or underscores, in any case.
//
// The market is that of the longest calling code that the number begins with.
// Where it has no price in effect for the category, the market default's price
// for that category counts; else its price for the category named default; else
// the highest that it has for any category.
func (c *RateCard) Look(recipient, category string, now time.Time) Fee {
	at := now.Unix()
	m, known := c.marketOf(recipient)
	fee := Fee{Market: m.name, UnknownMarket: !known}
	if fee.Prices = m.prices(category, at); fee.Prices != nil {
		return fee
	}
	fee.UnknownCategory = true
	if fee.Prices = c.fallback.prices(category, at); fee.Prices != nil {
		return fee
	}
	if fee.Prices = c.fallback.prices(defaultName, at); fee.Prices != nil {
		return fee
	}
	fee.Prices = c.dearest(at)
	return fee
}

// marketOf returns the market of a recipient, and whether it is known.
func (c *RateCard) marketOf(recipient string) (m *market, known bool) {
	digits := strings.TrimPrefix(recipient, "+")
	if len(digits) > maxPhoneDigits || !isDigits(digits) {
		return c.fallback, false
	}
	for n := min(len(digits), c.longest); n > 0; n-- {
		if m, known = c.markets[digits[:n]]; known {
			return m, true
		}
	}
	return c.fallback, false
}

// dearest returns the prices of the category of the market default with the
// highest price in any currency. The first by name counts among equals.
func (c *RateCard) dearest(at int64) map[string]Micros {
	prices, highest := noPrices, Micros(-1)
	for _, g := range c.fallbacks {
		now := g.at(at)
		for _, price := range now {
			if price > highest {
				prices, highest = now, price
			}
		}
	}
	return prices
}

// prices returns what a category costs, nil where nothing is in effect.
func (m *market) prices(category string, at int64) map[string]Micros {
	g, ok := m.groups[category]
	if !ok {
		g = m.groups[normalized(category)]
	}
	return g.at(at)
}

// at returns the prices in effect, nil where there are none yet.
func (g group) at(at int64) map[string]Micros {
	for _, e := range slices.Backward(g) {
		if e.from <= at {
			return e.prices
		}
	}
	return nil
}

// normalized returns the one spelling of a category's name. Meta writes
// authentication-international and authentication_international.
func normalized(category string) string {
	return strings.ReplaceAll(strings.ToLower(category), "-", "_")
}

// isDigits reports whether s is made of ASCII digits alone.
func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

//go:embed rates.csv
var builtInRates string

// DefaultRateCard returns the built-in card: Meta's published rates in US
// dollars. The comments in rates.csv say of which day, from where, and what about
// them is not certain.
func DefaultRateCard() *RateCard { return builtIn() }

var builtIn = sync.OnceValue(func() *RateCard {
	card, err := ParseRateCard(strings.NewReader(builtInRates))
	if err != nil {
		panic(fmt.Sprintf("built-in rate card: %v", err)) // a test keeps it from happening
	}
	return card
})
