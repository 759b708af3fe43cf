package storetest

import (
	"sync/atomic"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// Whether early fees outlast a restart is left open: a send that is under way
// when its gateway ends is not captured under its message's id.
var earlyFeeChecks = []check{
	{"an early template fee is charged with the capture", earlyFeeCharged},
	{"an early template fee is remembered for as long as promised", earlyFeeRemembered},
	{"an early template fee is in the account's currency", earlyFeeInCurrency},
	{"an early template fee and a later one are one", earlyFeeOnce},
	{"template fees of unknown messages change nothing", foreignFees},
	{"a template fee that races with the capture is charged once", racingEarlyFees},
}

// ways to name a message, each of which captures.
var namings = map[string]func(f *fixture, payer tenant.AccountID, messageID string) store.HoldID{
	"a capture": (*fixture).captured,
	"a status of an open hold": func(f *fixture, payer tenant.AccountID, messageID string) store.HoldID {
		f.Helper()
		id := f.hold(payer)
		f.wantSettled(id, messageID, true)
		return id
	},
	"a status of a released hold": func(f *fixture, payer tenant.AccountID, messageID string) store.HoldID {
		f.Helper()
		id := f.released(payer)
		f.wantSettled(id, messageID, true)
		return id
	},
}

// fees are how many template fees of each message stand in the ledger.
func (f *fixture) fees(account tenant.AccountID) map[string]int {
	f.Helper()
	fees := make(map[string]int)
	for _, e := range f.ledger(account, time.Time{}) {
		if e.Kind == store.KindTemplateFee {
			fees[e.MessageID]++
		}
	}
	return fees
}

func earlyFeeCharged(f *fixture) {
	for name, capture := range namings {
		payer := f.account(100 * fee)
		messageID := newMessageID()
		f.wantFee(feeStatus("", messageID), store.FeeUnknownMessage)
		f.wantFee(feeStatus(store.NewHoldID(), messageID), store.FeeUnknownMessage)
		id := capture(f, payer, messageID)
		f.wantSame("fees after "+name, f.fees(payer), map[string]int{messageID: 1})
		f.wantBalance(payer, 99*fee-priceUSD, 0, fee+priceUSD)
		got := f.last(payer)
		got.Seq, got.At = 0, time.Time{}
		app := f.ledger(payer, time.Time{})[1].AppID
		f.wantSame("entry", got, store.Entry{
			ID: store.TemplateFeeID(messageID), Kind: store.KindTemplateFee, Amount: priceUSD,
			Balance: 99*fee - priceUSD, MessageID: messageID, AppID: app,
		})
		f.wantUnchanged(payer, "more of the same", func() {
			f.wantFee(feeStatus("", messageID), store.FeeRepeated)
			f.wantFee(feeStatus(id, messageID), store.FeeRepeated)
			_ = f.Capture(f.Context(), id, messageID)
			f.restart()
			_ = f.Capture(f.Context(), id, messageID)
			f.wantFee(feeStatus("", messageID), store.FeeRepeated)
		})
	}
}

func earlyFeeRemembered(f *fixture) {
	payer := f.account(1_000 * fee)
	wait := store.EarlyFee - time.Second
	if f.realTime {
		wait = brief
	}
	var messageIDs []string
	for range 20 {
		messageIDs = append(messageIDs, newMessageID())
		f.wantFee(feeStatus("", messageIDs[len(messageIDs)-1]), store.FeeUnknownMessage)
	}
	f.Advance(wait)
	f.wantFee(feeStatus("", newMessageID()), store.FeeUnknownMessage) // the moment to forget others
	for _, messageID := range messageIDs {
		f.captured(payer, messageID)
	}
	f.wantSame("number of fees", len(f.fees(payer)), len(messageIDs))
}

func earlyFeeInCurrency(f *fixture) {
	for currency, price := range prices {
		payer := f.accountIn(currency, 10_000*fee)
		messageID, unpriced := newMessageID(), newMessageID()
		f.wantFee(feeStatus("", messageID), store.FeeUnknownMessage)
		f.wantFee(store.Status{MessageID: unpriced, TemplateFee: map[string]pricing.Micros{"JPY": 1}}, store.FeeUnknownMessage)
		f.captured(payer, messageID)
		id := f.captured(payer, unpriced)
		f.wantBalance(payer, 9_998*fee-price, 0, 2*fee+price)
		f.wantFee(feeStatus(id, unpriced), store.FeeCharged)
		f.wantBalance(payer, 9_998*fee-2*price, 0, 2*fee+2*price)
	}
}

func earlyFeeOnce(f *fixture) {
	for _, hold := range []func(tenant.AccountID) store.HoldID{
		f.hold, f.released,
		func(payer tenant.AccountID) store.HoldID { return f.captured(payer, "") },
	} {
		payer := f.account(100 * fee)
		messageID := newMessageID()
		id := hold(payer)
		f.wantFee(feeStatus("", messageID), store.FeeUnknownMessage)
		f.report(feeStatus(id, messageID), feeStatus(id, messageID))
		f.wantBalance(payer, 99*fee-priceUSD, 0, fee+priceUSD)
		f.wantUnchanged(payer, "a capture after the fee", func() {
			_ = f.Capture(f.Context(), id, messageID)
			f.wantFee(feeStatus(id, messageID), store.FeeRepeated)
			f.report(feeStatus("", messageID))
		})
		// The early fee is not left over for another message of that name.
		f.captured(payer, messageID)
		f.wantBalance(payer, 98*fee-priceUSD, 0, 2*fee+priceUSD)
	}
	// In one Receive.
	payer := f.account(100 * fee)
	got := f.report(feeStatus("", "wamid.1"), store.Status{Hold: f.hold(payer), MessageID: "wamid.1"}, feeStatus("", "wamid.1"))
	f.wantSame("results", got, []store.StatusResult{
		{Fee: store.FeeUnknownMessage}, {Settled: true}, {Fee: store.FeeRepeated},
	})
	f.wantBalance(payer, 99*fee-priceUSD, 0, fee+priceUSD)
}

// Those of another gateway's messages come here, too.
func foreignFees(f *fixture) {
	payer := f.account(100 * fee)
	f.captured(payer, "wamid.1")
	f.wantUnchanged(payer, "fees of unknown messages", func() {
		for range 50 {
			f.wantFee(feeStatus("", newMessageID()), store.FeeUnknownMessage)
			f.wantFee(feeStatus(store.NewHoldID(), newMessageID()), store.FeeUnknownMessage)
		}
		f.wantFee(store.Status{MessageID: "wamid.2"}, store.NoFee)
		f.restart()
	})
	f.captured(payer, "wamid.2")
	f.wantBalance(payer, 98*fee, 0, 2*fee)
}

func racingEarlyFees(f *fixture) {
	rounds := f.rounds(100)
	payer := f.account(0)
	for range rounds {
		f.credit(payer, fee+priceUSD)
		id, messageID := f.hold(payer), newMessageID()
		var turn atomic.Int64
		race(8, func() bool {
			if turn.Add(1)%4 == 0 {
				if err := f.Capture(f.Context(), id, messageID); err != nil {
					f.Error(err)
				}
			} else if _, err := f.Receive(f.Context(), nil, []store.Status{feeStatus("", messageID)}); err != nil {
				f.Error(err)
			}
			return true
		})
		f.wantSame("fees", f.fees(payer)[messageID], 1)
	}
	f.wantBalance(payer, 0, 0, feeTimes(rounds)+pricing.Micros(rounds)*priceUSD)
}
