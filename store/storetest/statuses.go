package storetest

import (
	"sync/atomic"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

var statusChecks = []check{
	{"holds tell whose they are", holdsTell},
	{"many holds are told at once", manyHoldsTold},
	{"a status captures an open hold", statusCaptures},
	{"a status leaves a captured hold alone", statusLeavesCaptured},
	{"a status of a released hold charges once", statusOfReleased},
	{"a hold made again is no request", againIsNoRequest},
	{"a hold made again can exceed what is available", againExceeds},
	{"a status of what is unknown changes nothing", unknownStatus},
	{"results are in the order of the statuses", resultsInOrder},
	{"one status of 64 racers settles", racingStatuses},
	{"racing capture, release and statuses charge once", racingSettlements},
}

func newMessageID() string { return "wamid." + tenant.NewID("M") }

// report has the store apply statuses.
func (f *fixture) report(statuses ...store.Status) []store.StatusResult {
	f.Helper()
	results, err := f.Receive(f.Context(), nil, statuses)
	f.must(err)
	if len(results) != len(statuses) {
		f.Fatalf("%d results of %d statuses", len(results), len(statuses))
	}
	return results
}

// wantSettled reports a status without fee and compares.
func (f *fixture) wantSettled(id store.HoldID, messageID string, want bool) {
	f.Helper()
	f.wantSame("result", f.report(store.Status{Hold: id, MessageID: messageID})[0], store.StatusResult{Settled: want})
}

// released makes a hold and releases it.
func (f *fixture) released(account tenant.AccountID) store.HoldID {
	f.Helper()
	id := f.hold(account)
	f.must(f.Release(f.Context(), id))
	return id
}

// captured makes a hold and captures it.
func (f *fixture) captured(account tenant.AccountID, messageID string) store.HoldID {
	f.Helper()
	id := f.hold(account)
	f.must(f.Capture(f.Context(), id, messageID))
	return id
}

// notHolds are texts where the id of a hold should be.
func (f *fixture) notHolds(account tenant.AccountID) []store.HoldID {
	f.Helper()
	operation := f.credit(account, fee)
	id := f.captured(account, newMessageID())
	return []store.HoldID{
		store.NewHoldID(), "x", "hold", "hold_", id + "0", id[:len(id)-1], "'; --", store.HoldID(operation),
		store.HoldID(id.EntryID(store.KindCapture)), store.HoldID(account),
	}
}

func holdsTell(f *fixture) {
	one, other := f.account(9*fee), f.account(9*fee)
	want := make(map[store.HoldID]store.Sender)
	var ids []store.HoldID
	add := func(account tenant.AccountID, captured bool, settle func(store.HoldID)) {
		f.Helper()
		a := ask(store.Hold, newAppID(), account, roomy)
		f.wantVerdict(a, store.Admitted)
		settle(a.HoldID)
		ids = append(ids, a.HoldID)
		want[a.HoldID] = store.Sender{App: a.App, Account: account, Captured: captured}
	}
	add(one, false, func(store.HoldID) {})
	add(other, false, func(store.HoldID) {})
	add(one, true, func(id store.HoldID) { f.must(f.Capture(f.Context(), id, "wamid.1")) })
	add(other, true, func(id store.HoldID) { f.must(f.Capture(f.Context(), id, "")) })
	add(one, false, func(id store.HoldID) { f.must(f.Release(f.Context(), id)) })
	add(other, true, func(id store.HoldID) { f.wantSettled(id, "wamid.2", true) })
	add(one, true, func(id store.HoldID) {
		f.must(f.Release(f.Context(), id))
		f.wantSettled(id, "wamid.3", true)
	})
	asked := append(append(f.notHolds(one), ids...), "", ids[0])
	for range 2 { // the second time after a restart
		got, err := f.Holds(f.Context(), asked)
		f.must(err)
		f.wantSame("holds", got, want)
		f.restart()
	}
}

func manyHoldsTold(f *fixture) {
	const holds = 1_500
	payer := f.account(holds * fee)
	ids := make([]store.HoldID, holds)
	crowd(holds, func(i int) {
		a := ask(store.Hold, newAppID(), payer, roomy)
		if _, err := f.Admit(f.Context(), a); err != nil {
			f.Error(err)
		}
		ids[i] = a.HoldID
	})
	got, err := f.Holds(f.Context(), ids)
	f.must(err)
	f.wantSame("number of holds", len(got), holds)
}

func statusCaptures(f *fixture) {
	payer := f.account(3 * fee)
	id := f.hold(payer)
	app := f.last(payer).AppID
	f.wantSettled(id, "wamid.1", true)
	for range 2 { // the second time after a restart
		f.wantBalance(payer, 2*fee, 0, fee)
		got := f.last(payer)
		got.Seq, got.At = 0, time.Time{}
		f.wantSame("entry", got, store.Entry{
			ID: id.EntryID(store.KindCapture), Kind: store.KindCapture, Amount: fee, Balance: 2 * fee, AppID: app, MessageID: "wamid.1",
		})
		f.wantUnchanged(payer, "settling what a status has captured", func() {
			f.wantSettled(id, "wamid.1", false)
			f.must(f.Capture(f.Context(), id, "wamid.1"))
			f.wantError("Release", f.Release(f.Context(), id), store.ErrConflict)
			f.inDoubt(f.Now().Add(time.Second), store.Released, 0)
		})
		f.restart()
	}
}

func statusLeavesCaptured(f *fixture) {
	payer := f.account(9 * fee)
	named, unnamed := f.captured(payer, "wamid.1"), f.hold(payer)
	f.Advance(time.Second)
	f.inDoubt(f.Now(), store.Captured, 1)
	f.wantUnchanged(payer, "statuses of captured holds", func() {
		f.wantSettled(named, "wamid.1", false)
		f.wantSettled(named, "wamid.2", false)
		f.wantSettled(unnamed, "wamid.3", false)
		f.wantSettled("", "wamid.1", false)
	})
}

func statusOfReleased(f *fixture) {
	payer := f.account(3 * fee)
	id := f.hold(payer)
	app := f.last(payer).AppID
	f.must(f.Release(f.Context(), id))
	f.wantSettled(id, "wamid.1", true)
	for range 2 { // the second time after a restart
		f.wantBalance(payer, 2*fee, 0, fee)
		got := f.ledger(payer, time.Time{})[3:]
		for i := range got {
			got[i].Seq, got[i].At = 0, time.Time{}
		}
		f.wantSame("entries", got, []store.Entry{
			{ID: string(id.Again()), Kind: store.KindHold, Amount: fee, Balance: 2 * fee, AppID: app},
			{ID: id.Again().EntryID(store.KindCapture), Kind: store.KindCapture, Amount: fee, Balance: 2 * fee, AppID: app, MessageID: "wamid.1"},
		})
		f.wantUnchanged(payer, "settling what was captured again", func() {
			f.wantSettled(id, "wamid.1", false)
			f.wantSettled(id, "wamid.2", false)
			f.must(f.Release(f.Context(), id))
			f.wantError("Capture", f.Capture(f.Context(), id, "wamid.1"), store.ErrConflict)
			f.must(f.Capture(f.Context(), id.Again(), "wamid.1"))
			f.wantError("Release", f.Release(f.Context(), id.Again()), store.ErrConflict)
			f.inDoubt(f.Now().Add(time.Second), store.Released, 0)
		})
		f.restart()
	}
	// One that the in-doubt policy gave back is no different.
	doubtful := f.hold(payer)
	f.Advance(time.Second)
	f.inDoubt(f.Now(), store.Released, 1)
	f.wantSettled(doubtful, "wamid.2", true)
	f.wantBalance(payer, fee, 0, 2*fee)
}

func againIsNoRequest(f *fixture) {
	payer, app := f.account(9*fee), newAppID()
	a := ask(store.Hold, app, payer, small)
	f.wantVerdict(a, store.Admitted)
	f.must(f.Release(f.Context(), a.HoldID))
	f.wantSettled(a.HoldID, "wamid.1", true)
	for range 2 { // the second time after a restart
		f.wantSame("quota of the minute", f.state(app, payer).Minute, store.Quota{Limit: small.PerMinute, Remaining: small.PerMinute - 1})
		f.restart()
	}
}

func againExceeds(f *fixture) {
	payer := f.account(fee)
	id := f.released(payer)
	f.hold(payer)
	f.wantBalance(payer, 0, fee, 0)
	f.wantSettled(id, "wamid.1", true)
	f.wantBalance(payer, -fee, fee, fee)
	f.wantVerdict(ask(store.Hold, newAppID(), payer, roomy), store.NoBalance)
}

func unknownStatus(f *fixture) {
	payer := f.account(9 * fee)
	ids := append(f.notHolds(payer), "")
	f.wantUnchanged(payer, "statuses of what is unknown", func() {
		for _, id := range ids {
			f.wantSettled(id, newMessageID(), false)
		}
		f.restart()
	})
}

func resultsInOrder(f *fixture) {
	payer := f.account(9 * fee)
	open, captured, released := f.hold(payer), f.captured(payer, "wamid.2"), f.released(payer)
	got := f.report(
		store.Status{Hold: store.NewHoldID(), MessageID: "wamid.9"},
		store.Status{Hold: open, MessageID: "wamid.1"},
		store.Status{Hold: captured, MessageID: "wamid.2", TemplateFee: prices},
		store.Status{Hold: open, MessageID: "wamid.1", TemplateFee: prices},
		store.Status{Hold: released, MessageID: "wamid.3", TemplateFee: prices},
		store.Status{MessageID: "wamid.9", TemplateFee: prices},
		store.Status{Hold: released, MessageID: "wamid.3", TemplateFee: prices},
		store.Status{MessageID: "wamid.1"},
	)
	f.wantSame("results", got, []store.StatusResult{
		{}, {Settled: true}, {Fee: store.FeeCharged}, {Fee: store.FeeCharged},
		{Settled: true, Fee: store.FeeCharged}, {Fee: store.FeeUnknownMessage}, {Fee: store.FeeRepeated}, {},
	})
	f.wantBalance(payer, 6*fee-3*priceUSD, 0, 3*(fee+priceUSD))
}

func racingStatuses(f *fixture) {
	rounds := f.rounds(40)
	payer := f.account(0)
	for round := range rounds {
		f.credit(payer, fee)
		id := f.hold(payer)
		if round%2 == 1 {
			f.must(f.Release(f.Context(), id))
		}
		s := store.Status{Hold: id, MessageID: newMessageID()}
		n := race(racers, func() bool {
			results, err := f.Receive(f.Context(), nil, []store.Status{s})
			if err != nil {
				f.Error(err)
				return false
			}
			return results[0].Settled
		})
		if n != 1 {
			f.Fatalf("round %d: %d of %d statuses settled", round, n, racers)
		}
	}
	f.wantSame("captured", int(f.balance(payer).Captured/fee), rounds)
}

// Whoever comes first: Meta has the message, so it is charged for, once.
func racingSettlements(f *fixture) {
	rounds := f.rounds(100)
	payer := f.account(0)
	for range rounds {
		f.credit(payer, fee)
		id, messageID := f.hold(payer), newMessageID()
		var turn atomic.Int64
		race(12, func() bool {
			switch turn.Add(1) % 3 {
			case 0:
				_ = f.Capture(f.Context(), id, messageID)
			case 1:
				_ = f.Release(f.Context(), id)
			default:
				if _, err := f.Receive(f.Context(), nil, []store.Status{{Hold: id, MessageID: messageID}}); err != nil {
					f.Error(err)
				}
			}
			return true
		})
	}
	f.wantBalance(payer, 0, 0, feeTimes(rounds))
}
