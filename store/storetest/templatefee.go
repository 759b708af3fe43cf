package storetest

import (
	"strings"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
)

var templateFeeChecks = []check{
	{"a template fee moves from available to captured", templateFeeMoves},
	{"a template fee is charged once for each message", templateFeeOnce},
	{"a template fee is in the account's currency", feeInCurrency},
	{"a template fee without a price in the currency is not charged", feeNotPriced},
	{"a template fee of zero is charged", zeroTemplateFee},
	{"a hold tells whose the template fee is", feeOfHold},
	{"a message tells whose the template fee is", feeOfMessage},
	{"message ids are told apart", messageIDsApart},
	{"template fees can exceed what is available", templateFeeExceeds},
	{"a credit cannot have the id of a template fee", feeIDIsReserved},
	{"racing statuses charge one template fee", racingTemplateFees},
}

const (
	priceUSD pricing.Micros = 25_000
	priceEUR pricing.Micros = 23_100
)

// prices are those of a template.
var prices = map[string]pricing.Micros{"USD": priceUSD, "EUR": priceEUR, "TRY": 1_100_000}

func feeTimes(n int) pricing.Micros { return pricing.Micros(n) * fee }

// wantFee reports a status and compares what became of its fee.
func (f *fixture) wantFee(s store.Status, want store.FeeResult) {
	f.Helper()
	if got := f.report(s)[0].Fee; got != want {
		f.Errorf("the template fee is answered %s, want %s", feeName(got), feeName(want))
	}
}

func feeName(r store.FeeResult) string {
	return [...]string{"NoFee", "FeeCharged", "FeeRepeated", "FeeNotPriced", "FeeUnknownMessage"}[r]
}

// feeStatus is a status with a fee.
func feeStatus(id store.HoldID, messageID string) store.Status {
	return store.Status{Hold: id, MessageID: messageID, TemplateFee: prices}
}

func templateFeeMoves(f *fixture) {
	payer := f.account(100 * fee)
	id := f.captured(payer, "wamid.1")
	app := f.last(payer).AppID
	f.Advance(time.Second)
	f.wantFee(feeStatus(id, "wamid.1"), store.FeeCharged)
	for range 2 { // the second time after a restart
		f.wantBalance(payer, 99*fee-priceUSD, 0, fee+priceUSD)
		got := f.last(payer)
		if got.At.Before(f.Now().Add(-time.Minute)) || got.At.After(f.Now().Add(time.Millisecond)) {
			f.Errorf("the fee was charged at %v, and now it is %v", got.At, f.Now())
		}
		got.Seq, got.At = 0, time.Time{}
		f.wantSame("entry", got, store.Entry{
			ID: store.TemplateFeeID("wamid.1"), Kind: store.KindTemplateFee, Amount: priceUSD,
			Balance: 99*fee - priceUSD, MessageID: "wamid.1", AppID: app,
		})
		f.restart()
	}
}

// In any order and number, with the hold, with another text in its place, and
// without.
func templateFeeOnce(f *fixture) {
	for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		payer := f.account(100 * fee)
		messageID := newMessageID()
		id := f.captured(payer, messageID)
		ways := []store.Status{feeStatus(id, messageID), feeStatus("", messageID), feeStatus(store.NewHoldID(), messageID)}
		f.wantFee(store.Status{Hold: id, MessageID: messageID}, store.NoFee)
		f.wantFee(ways[order[0]], store.FeeCharged)
		f.wantUnchanged(payer, "a fee that was charged before", func() {
			for _, i := range order {
				f.wantFee(ways[i], store.FeeRepeated)
			}
			f.restart()
			for _, i := range order {
				f.wantFee(ways[i], store.FeeRepeated)
			}
			f.wantFee(store.Status{MessageID: messageID}, store.NoFee)
		})
	}
	// All at once, of one hold that is open and one that was released.
	payer := f.account(100 * fee)
	open, released := f.hold(payer), f.released(payer)
	got := f.report(feeStatus(open, "wamid.1"), feeStatus("", "wamid.1"), feeStatus(released, "wamid.2"), feeStatus("", "wamid.2"))
	f.wantSame("results", got, []store.StatusResult{
		{Settled: true, Fee: store.FeeCharged}, {Fee: store.FeeRepeated}, {Settled: true, Fee: store.FeeCharged}, {Fee: store.FeeRepeated},
	})
	f.wantBalance(payer, 98*fee-2*priceUSD, 0, 2*fee+2*priceUSD)
}

func feeInCurrency(f *fixture) {
	for currency, price := range prices {
		payer := f.accountIn(currency, 10_000*fee)
		f.wantFee(feeStatus(f.hold(payer), newMessageID()), store.FeeCharged)
		f.restart()
		messageID := newMessageID()
		f.captured(payer, messageID)
		f.wantFee(feeStatus("", messageID), store.FeeCharged)
		f.wantBalance(payer, 9_998*fee-2*price, 0, 2*fee+2*price)
	}
}

func feeNotPriced(f *fixture) {
	payer := f.accountIn("TRY", 10_000*fee)
	id := f.captured(payer, "wamid.1")
	unpriced := feeStatus(id, "wamid.1")
	f.wantUnchanged(payer, "a fee without a price", func() {
		for _, p := range []map[string]pricing.Micros{{"USD": priceUSD, "EUR": priceEUR}, {}, {"": 1, "try": 1}} {
			unpriced.TemplateFee = p
			f.wantFee(unpriced, store.FeeNotPriced)
			f.wantFee(store.Status{MessageID: "wamid.1", TemplateFee: p}, store.FeeNotPriced)
		}
		f.restart()
	})
	f.wantFee(feeStatus(id, "wamid.1"), store.FeeCharged)
	f.wantSame("result", f.report(store.Status{Hold: f.hold(payer), MessageID: "wamid.2", TemplateFee: unpriced.TemplateFee}),
		[]store.StatusResult{{Settled: true, Fee: store.FeeNotPriced}})
	f.wantBalance(payer, 9_998*fee-prices["TRY"], 0, 2*fee+prices["TRY"])
}

func zeroTemplateFee(f *fixture) {
	payer := f.account(9 * fee)
	free := store.Status{Hold: f.captured(payer, "wamid.1"), MessageID: "wamid.1", TemplateFee: map[string]pricing.Micros{"USD": 0}}
	f.wantFee(free, store.FeeCharged)
	f.wantSame("kind of the last entry", f.last(payer).Kind, store.KindTemplateFee)
	f.wantUnchanged(payer, "a fee after one of zero", func() {
		f.wantFee(free, store.FeeRepeated)
		f.wantFee(feeStatus(free.Hold, "wamid.1"), store.FeeRepeated)
	})
	f.wantBalance(payer, 8*fee, 0, fee)
}

func feeOfHold(f *fixture) {
	payer, other := f.account(100*fee), f.accountIn("EUR", 100*fee)
	unnamed := f.captured(payer, "")
	f.wantFee(feeStatus("", "wamid.1"), store.FeeUnknownMessage)
	f.wantFee(feeStatus(unnamed, "wamid.1"), store.FeeCharged)
	f.wantFee(feeStatus(unnamed, "wamid.1"), store.FeeRepeated)
	f.report(feeStatus("", "wamid.1"))
	f.wantBalance(payer, 99*fee-priceUSD, 0, fee+priceUSD)

	// The hold outranks the message.
	f.captured(payer, "wamid.2")
	f.wantFee(feeStatus(f.captured(other, "wamid.3"), "wamid.2"), store.FeeCharged)
	f.wantBalance(payer, 98*fee-priceUSD, 0, 2*fee+priceUSD)
	f.wantBalance(other, 99*fee-priceEUR, 0, fee+priceEUR)

	// That of a hold that was charged again, too.
	released := f.released(payer)
	f.wantFee(feeStatus(released, "wamid.4"), store.FeeCharged)
	f.wantFee(feeStatus(released, "wamid.5"), store.FeeCharged)
	f.wantBalance(payer, 97*fee-3*priceUSD, 0, 3*fee+3*priceUSD)
}

func feeOfMessage(f *fixture) {
	payer := f.account(1_000 * fee)
	noHolds := append(f.notHolds(payer), "")
	before := f.balance(payer)
	for _, id := range noHolds {
		messageID := newMessageID()
		f.captured(payer, messageID)
		f.wantFee(feeStatus(id, messageID), store.FeeCharged)
	}
	n := pricing.Micros(len(noHolds))
	f.wantBalance(payer, before.Available-n*(fee+priceUSD), 0, before.Captured+n*(fee+priceUSD))

	// One that a status has named is known as well.
	f.wantSettled(f.hold(payer), "wamid.1", true)
	f.wantFee(feeStatus("", "wamid.1"), store.FeeCharged)
	f.wantSettled(f.released(payer), "wamid.2", true)
	f.wantFee(feeStatus("", "wamid.2"), store.FeeCharged)
}

func messageIDsApart(f *fixture) {
	payer := f.account(1_000 * fee)
	long := "wamid." + strings.Repeat("HBgLMTIwMjU1NTAxMDA=", 20)
	messageIDs := []string{"wamid.a", "wamid.A", "wamid.a ", "wamid.", "a", long, long + "1", "\u00e9", "e\u0301", "'; --", "%", "_"}
	for _, messageID := range messageIDs {
		f.captured(payer, messageID)
	}
	for range 2 {
		for _, messageID := range messageIDs {
			f.report(feeStatus("", messageID))
		}
		f.restart()
	}
	f.wantFee(feeStatus("", "wamid.b"), store.FeeUnknownMessage)
	n := pricing.Micros(len(messageIDs))
	f.wantBalance(payer, 1_000*fee-n*(fee+priceUSD), 0, n*(fee+priceUSD))
}

func templateFeeExceeds(f *fixture) {
	payer := f.account(2 * fee)
	one, other := f.hold(payer), f.hold(payer)
	f.wantFee(feeStatus(one, "wamid.1"), store.FeeCharged)
	f.wantFee(feeStatus(other, "wamid.2"), store.FeeCharged)
	f.wantBalance(payer, -2*priceUSD, 0, 2*fee+2*priceUSD)
	f.restart()
	f.wantVerdict(ask(store.Hold, newAppID(), payer, roomy), store.NoBalance)
	f.credit(payer, 2*priceUSD)
	f.wantVerdict(ask(store.Hold, newAppID(), payer, roomy), store.NoBalance)
	f.credit(payer, 1)
	f.wantVerdict(ask(store.Hold, newAppID(), payer, roomy), store.Admitted)
}

func feeIDIsReserved(f *fixture) {
	payer := f.account(100 * fee)
	id := f.captured(payer, "wamid.1")
	refuse := func(messageID string, amount pricing.Micros) {
		f.Helper()
		f.wantUnchanged(payer, "a credit with the id of a template fee", func() {
			_, err := f.Credit(f.Context(), payer, amount, store.TemplateFeeID(messageID))
			f.wantError("Credit", err, store.ErrConflict)
		})
	}
	for _, messageID := range []string{"wamid.1", "wamid.2", "", "x"} {
		refuse(messageID, priceUSD)
	}
	f.wantFee(feeStatus(id, "wamid.1"), store.FeeCharged)
	refuse("wamid.1", priceUSD)
	refuse("wamid.1", -priceUSD)
}

func racingTemplateFees(f *fixture) {
	rounds := f.rounds(40)
	payer := f.account(0)
	for round := range rounds {
		f.credit(payer, fee+priceUSD)
		messageID := newMessageID()
		id := f.captured(payer, messageID)
		ways := []store.Status{feeStatus(id, messageID), feeStatus("", messageID)}
		n := race(racers, func() bool {
			results, err := f.Receive(f.Context(), nil, ways)
			if err != nil {
				f.Error(err)
				return false
			}
			return results[0].Fee == store.FeeCharged || results[1].Fee == store.FeeCharged
		})
		if n != 1 {
			f.Fatalf("round %d: %d of %d were told that the fee was charged", round, n, racers)
		}
	}
	f.wantSame("available", f.balance(payer).Available, pricing.Micros(0))
}
