package storetest

import (
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

var ledgerChecks = []check{
	{"the ledger tells every step", ledgerTells},
	{"the ledger yields what was made since", ledgerSince},
	{"the ledger can be left half-way", ledgerLeft},
	{"ledgers of accounts are apart", ledgersApart},
}

func ledgerTells(f *fixture) {
	ctx := f.Context()
	start := f.Now()
	payer, app := f.account(0), newAppID()
	hold := func() store.HoldID {
		f.Advance(time.Second)
		a := ask(store.Hold, app, payer, roomy)
		f.wantVerdict(a, store.Admitted)
		return a.HoldID
	}
	_, err := f.Credit(ctx, payer, 2*fee, "op 1")
	f.must(err)
	first, second := hold(), hold()
	f.must(f.Capture(ctx, second, "wamid.2"))
	f.Advance(time.Second)
	f.must(f.Release(ctx, first))
	third := hold()
	f.must(f.Capture(ctx, third, ""))
	_, err = f.Credit(ctx, payer, -3*fee, "op 2")
	f.must(err)

	want := []store.Entry{
		{ID: "op 1", Kind: store.KindCredit, Amount: 2 * fee, Balance: 2 * fee},
		{ID: string(first), Kind: store.KindHold, Amount: fee, Balance: fee, AppID: app},
		{ID: string(second), Kind: store.KindHold, Amount: fee, Balance: 0, AppID: app},
		{ID: second.EntryID(store.KindCapture), Kind: store.KindCapture, Amount: fee, Balance: 0, AppID: app, MessageID: "wamid.2"},
		{ID: first.EntryID(store.KindRelease), Kind: store.KindRelease, Amount: fee, Balance: fee, AppID: app},
		{ID: string(third), Kind: store.KindHold, Amount: fee, Balance: 0, AppID: app},
		{ID: third.EntryID(store.KindCapture), Kind: store.KindCapture, Amount: fee, Balance: 0, AppID: app},
		{ID: "op 2", Kind: store.KindCredit, Amount: -3 * fee, Balance: -3 * fee},
	}
	for range 2 { // the second time after a restart
		got := f.ledger(payer, time.Time{})
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(store.Entry{}, "Seq", "At")); diff != "" {
			f.Errorf("ledger (-want +got):\n%s", diff)
		}
		f.restart()
	}
	entries := f.ledger(payer, time.Time{})
	for i, e := range entries {
		if e.At.Before(start.Add(-time.Millisecond)) || e.At.After(f.Now().Add(time.Millisecond)) {
			f.Errorf("entry %d was made at %v, which is not between %v and %v", i, e.At, start, f.Now())
		}
	}
	if step := entries[2].At.Sub(entries[1].At); step < 900*time.Millisecond {
		f.Errorf("two holds a second apart are %v apart in the ledger", step)
	}
}

func ledgerSince(f *fixture) {
	payer := f.account(0)
	for range 5 {
		f.credit(payer, fee)
		f.Advance(time.Second)
	}
	all := f.ledger(payer, time.Time{})
	for i, e := range all {
		f.wantSame("since the time of an entry", f.ledger(payer, e.At), all[i:])
		f.wantSame("since a millisecond later", f.ledger(payer, e.At.Add(time.Millisecond)), all[i+1:])
	}
	f.wantSame("since the year 3000", f.ledger(payer, time.Date(3000, 1, 1, 0, 0, 0, 0, time.UTC)), all[:0])
}

func ledgerLeft(f *fixture) {
	payer := f.account(0)
	for range 5 {
		f.credit(payer, fee)
	}
	sequence := f.Ledger(f.Context(), payer, time.Time{})
	for range 2 { // a sequence can be ranged over again
		n := 0
		for _, err := range sequence {
			f.must(err)
			if n++; n == 2 {
				break
			}
		}
	}
	f.credit(payer, fee)
	if n := len(f.ledger(payer, time.Time{})); n != 6 {
		f.Errorf("%d entries, want 6", n)
	}
}

func ledgersApart(f *fixture) {
	one, other := f.account(3*fee), f.account(3*fee)
	f.hold(one)
	f.must(f.Capture(f.Context(), f.hold(other), "wamid.1"))
	f.wantBalance(one, 2*fee, fee, 0)
	f.wantBalance(other, 2*fee, 0, fee)
	if a, b := len(f.ledger(one, time.Time{})), len(f.ledger(other, time.Time{})); a != 2 || b != 3 {
		f.Errorf("ledgers of %d and %d entries, want 2 and 3", a, b)
	}
}

// auditAll audits the books of every account that the check made.
func (f *fixture) auditAll() {
	if f.closed {
		return
	}
	seqs := make(map[int64]bool)
	ids := make(map[string]bool)
	for _, account := range f.accounts {
		for _, e := range f.audit(account) {
			if seqs[e.Seq] || ids[e.ID] {
				f.Errorf("sequence number %d or id %s is there twice", e.Seq, e.ID)
			}
			seqs[e.Seq], ids[e.ID] = true, true
		}
	}
}

// audit derives the balance of an account from its ledger alone, and compares.
func (f *fixture) audit(account tenant.AccountID) []store.Entry {
	f.Helper()
	entries := f.ledger(account, time.Time{})
	open := make(map[string]store.Entry) // by hold id
	var b store.Balance
	var credits pricing.Micros
	var last store.Entry
	for i, e := range entries {
		switch e.Kind {
		case store.KindCredit:
			credits += e.Amount
			b.Available += e.Amount
		case store.KindHold:
			open[e.ID] = e
			b.Available -= e.Amount
			b.Held += e.Amount
		case store.KindCapture, store.KindRelease:
			f.auditOutcome(open, e)
			b.Held -= e.Amount
			if e.Kind == store.KindCapture {
				b.Captured += e.Amount
			} else {
				b.Available += e.Amount
			}
		case store.KindTemplateFee:
			f.auditTemplateFee(e)
			b.Available -= e.Amount
			b.Captured += e.Amount
		default:
			f.Errorf("entry %d is of kind %q", i, e.Kind)
		}
		if e.Balance != b.Available {
			f.Errorf("entry %d (%s) says that %d was available after it; its predecessors make it %d", i, e.Kind, e.Balance, b.Available)
		}
		if i > 0 && e.Seq <= last.Seq || e.At.Before(last.At) {
			f.Errorf("entry %d (%d at %v) stands behind %d at %v", i, e.Seq, e.At, last.Seq, last.At)
		}
		last = e
	}
	if got := f.balance(account); got != b {
		f.Errorf("balance %+v; the ledger makes it %+v", got, b)
	}
	if credits != b.Available+b.Held+b.Captured {
		f.Errorf("credits of %d are not %+v", credits, b)
	}
	return entries
}

// auditOutcome checks that e ends a hold that is open, and closes it.
func (f *fixture) auditOutcome(open map[string]store.Entry, e store.Entry) {
	f.Helper()
	id := "hold_" + strings.TrimPrefix(e.ID, string(e.Kind)+"_")
	hold, ok := open[id]
	if !ok || hold.Amount != e.Amount || hold.AppID != e.AppID {
		f.Errorf("%s %s of %d for %s does not end an open hold: %+v", e.Kind, e.ID, e.Amount, e.AppID, hold)
	}
	delete(open, id)
}

// auditTemplateFee checks that e can be there once for its message.
func (f *fixture) auditTemplateFee(e store.Entry) {
	f.Helper()
	if e.MessageID == "" || e.ID != store.TemplateFeeID(e.MessageID) || e.AppID == "" {
		f.Errorf("template fee %s of message %q for app %q", e.ID, e.MessageID, e.AppID)
	}
}
