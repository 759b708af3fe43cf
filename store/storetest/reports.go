package storetest

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

var reportChecks = []check{
	{"the ledger is reported in order and once", reportsInOrder},
	{"a report that was not acknowledged comes again", reportComesAgain},
	{"entries made after a report come in the next", reportsGoOn},
	{"a report that is acknowledged again moves nothing back", acknowledgedAgain},
	{"holds and releases are not reported", holdsAreNotReported},
	{"reports lose nothing while entries are made", reportsAmongCharges},
}

// unreported returns the next report. A gateway that has just ended may be
// taken for one that is at it, for a while.
func (f *fixture) unreported(most int) (report store.Report) {
	f.Helper()
	f.eventually("nobody else reports", func() bool {
		var err error
		report, err = f.follower().Unreported(f.Context(), most)
		if errors.Is(err, store.ErrBusy) {
			f.Advance(time.Second)
			return false
		}
		f.must(err)
		return true
	})
	if len(report.Entries) > most {
		f.Errorf("a report of %d entries, where %d are asked for", len(report.Entries), most)
	}
	return report
}

func (f *fixture) reported(report store.Report) {
	f.Helper()
	f.must(f.follower().Reported(f.Context(), report))
}

// drain reports all that is not reported.
func (f *fixture) drain(most int) (entries []store.ReportedEntry) {
	f.Helper()
	for {
		report := f.unreported(most)
		if len(report.Entries) == 0 {
			return entries
		}
		f.reported(report)
		entries = append(entries, report.Entries...)
	}
}

// entries makes some of every kind in an account that can pay them.
func (f *fixture) entries(account tenant.AccountID) {
	f.Helper()
	f.credit(account, 100*fee)
	f.hold(account)
	messageID := newMessageID()
	id := f.captured(account, messageID)
	f.released(account)
	f.Advance(time.Millisecond)
	f.wantFee(feeStatus(id, messageID), store.FeeCharged)
	f.captured(account, "")
}

func reportsInOrder(f *fixture) {
	if n := len(f.drain(5)); n > 0 {
		f.Errorf("%d entries of an empty ledger", n)
	}
	payers := []tenant.AccountID{f.account(0), f.account(0), f.stranger(), f.account(0)}
	f.follow(payers[2], fee, 1)
	for range 3 {
		for _, payer := range payers {
			f.entries(payer)
		}
	}
	f.follow(payers[2], -fee, 2)
	f.follow(payers[0], 9*fee, 2)
	all := f.drain(3)
	f.wantReported(all)
	for _, most := range []int{1, 7, 1_000} {
		f.restart()
		f.wantSame("entries left", len(f.drain(most)), 0)
		for _, payer := range payers[1:] {
			f.entries(payer)
		}
		all = append(all, f.drain(most)...)
		f.wantReported(all)
	}
}

func reportComesAgain(f *fixture) {
	one, other := f.account(0), f.account(0)
	f.entries(one)
	f.entries(other)
	first := f.unreported(3)
	if len(first.Entries) == 0 {
		f.Fatalf("nothing to report")
	}
	f.restart() // before it is acknowledged
	f.entries(one)
	all := f.drain(3)
	f.wantReported(all)

	f.entries(other)
	lost := f.unreported(100)
	f.restart()
	again := f.drain(100)
	f.wantSame("what was lost", again, lost.Entries)
	f.wantReported(append(all, again...))
}

func reportsGoOn(f *fixture) {
	payer, later := f.account(0), f.account(0)
	var all []store.ReportedEntry
	for range 4 {
		f.entries(payer)
		report := f.unreported(1_000)
		f.entries(payer)
		f.entries(later)
		f.reported(report)
		f.restart()
		all = append(append(all, report.Entries...), f.drain(2)...)
		f.wantReported(all)
	}
}

func acknowledgedAgain(f *fixture) {
	payer := f.account(0)
	f.entries(payer)
	early := f.unreported(1)
	f.reported(early)
	all := append(early.Entries, f.drain(1)...)
	f.wantReported(all)
	for range 2 { // the second time after a restart
		f.reported(early)
		f.wantSame("entries left", len(f.drain(10)), 0)
		f.entries(payer)
		all = append(all, f.drain(10)...)
		f.wantReported(all)
		f.restart()
	}
}

func holdsAreNotReported(f *fixture) {
	payer := f.account(0)
	f.credit(payer, 1_000*fee)
	all := f.drain(1)
	for range 100 {
		f.released(payer)
	}
	last := f.hold(payer)
	for range 2 { // the second time after a restart
		f.wantSame("entries", len(f.drain(1)), 0)
		f.restart()
	}
	f.must(f.Capture(f.Context(), last, "wamid.1"))
	f.wantReported(append(all, f.drain(1)...))
}

func reportsAmongCharges(f *fixture) {
	const accounts = 6
	var writers sync.WaitGroup
	var running atomic.Int64
	for range accounts {
		payer := f.account(10_000 * fee)
		running.Add(1)
		writers.Go(func() {
			defer running.Add(-1)
			for range f.rounds(100) {
				a := ask(store.Hold, newAppID(), payer, roomy)
				_, err := f.Admit(f.Context(), a)
				if err == nil {
					err = f.Capture(f.Context(), a.HoldID, newMessageID())
				}
				if err == nil {
					_, err = f.Credit(f.Context(), payer, 1, tenant.NewID("credit"))
				}
				if err != nil {
					f.Error(err)
					return
				}
			}
		})
	}
	var all []store.ReportedEntry
	for running.Load() > 0 {
		all = append(all, f.drain(50)...)
	}
	writers.Wait()
	f.wantReported(append(all, f.drain(50)...))
}
