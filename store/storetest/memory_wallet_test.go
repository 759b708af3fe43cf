package storetest

import (
	"context"
	"iter"
	"runtime"
	"slices"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

func (m *memory) Admit(ctx context.Context, a store.Admission) (store.Decision, error) {
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		return store.Decision{}, err
	}
	verdict := m.verdict(a)
	if m.fault == racesForMoney {
		m.mu.Unlock()
		runtime.Gosched()
		m.mu.Lock()
	}
	counts := verdict == store.Admitted && a.Mode != store.Check || m.fault == countsRefused
	if a.HoldID != "" && m.entry(string(a.HoldID)) != nil && (m.fault != refusesRepeated || verdict == store.Admitted) {
		verdict, counts = store.Admitted, false
	} else if verdict == store.Admitted && a.Mode == store.Hold {
		m.append(a.Account, store.Entry{ID: string(a.HoldID), Kind: store.KindHold, Amount: a.Fee, AppID: a.App})
	}
	if counts {
		m.admitted[a.App] = append(m.admitted[a.App], m.now())
	}
	return store.Decision{
		Verdict: verdict,
		Second:  store.Quota{Limit: a.Limits.PerSecond, Remaining: m.left(a.App, time.Second, a.Limits.PerSecond)},
		Minute:  store.Quota{Limit: a.Limits.PerMinute, Remaining: m.left(a.App, time.Minute, a.Limits.PerMinute)},
	}, nil
}

func (m *memory) verdict(a store.Admission) store.Verdict {
	second, minute := m.left(a.App, time.Second, a.Limits.PerSecond), m.left(a.App, time.Minute, a.Limits.PerMinute)
	if m.fault == admitsOneMore {
		second, minute = second+1, minute+1
	}
	switch {
	case minute == 0 && (m.fault != secondFirst || second > 0):
		return store.OverMinute
	case second == 0:
		return store.OverSecond
	case m.account(a.Account) == nil:
		return store.NoAccount
	case m.balances[a.Account].Available <= m.least(a):
		return store.NoBalance
	}
	return store.Admitted
}

// least is what the balance must be over.
func (m *memory) least(a store.Admission) pricing.Micros {
	if m.fault == wantsWholeFee && a.Fee > 0 {
		return a.Fee - 1
	}
	return 0
}

// left is how many more the window takes.
func (m *memory) left(app tenant.AppID, window time.Duration, limit int) int {
	log, now := m.admitted[app], m.now()
	grain := time.Duration(1)
	switch m.fault {
	case fixedWindows:
		now = now.Truncate(window).Add(window - 1)
	case coarseWindows:
		grain = window / 20
	}
	first, _ := slices.BinarySearchFunc(log, now.Add(-window), func(at, edge time.Time) int {
		if at.Truncate(grain).Add(grain - 1).After(edge) {
			return 1
		}
		return -1
	})
	return max(0, limit-len(log)+first)
}

func (m *memory) append(account tenant.AccountID, e store.Entry) {
	b := m.balances[account]
	switch e.Kind {
	case store.KindCredit:
		b.Available += e.Amount
	case store.KindHold:
		b.Available -= e.Amount
		b.Held += e.Amount
	case store.KindCapture:
		b.Held -= e.Amount
		b.Captured += e.Amount
	case store.KindRelease:
		b.Held -= e.Amount
		b.Available += e.Amount
	case store.KindTemplateFee:
		b.Available -= e.Amount
		b.Captured += e.Amount
	}
	m.balances[account] = b
	e.Seq, e.At, e.Balance = int64(len(m.entries))+1, m.now(), b.Available
	m.ids[e.ID] = len(m.entries)
	m.entries = append(m.entries, owned{account, e})
}

func (m *memory) settle(ctx context.Context, id store.HoldID, kind, other store.Kind, messageID string) error {
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		return err
	}
	hold := m.holdOf(id)
	if hold == nil {
		return store.ErrNotFound
	}
	if m.entry(id.EntryID(other)) != nil && m.fault != hasTwoOutcomes {
		return store.ErrConflict
	}
	if m.entry(id.EntryID(kind)) == nil || m.fault == capturesTwice {
		m.end(*hold, id, kind, messageID)
	}
	return nil
}

// holdOf returns the entry of a hold, or nil.
func (m *memory) holdOf(id store.HoldID) *owned {
	if e := m.entry(string(id)); e != nil && e.Kind == store.KindHold {
		return e
	}
	return nil
}

// end gives a hold its outcome.
func (m *memory) end(hold owned, id store.HoldID, kind store.Kind, messageID string) {
	m.append(hold.account, store.Entry{
		ID: id.EntryID(kind), Kind: kind, Amount: hold.Amount, AppID: hold.AppID, MessageID: messageID,
	})
	if early, ok := m.early[messageID]; ok && kind == store.KindCapture && m.fault != ignoresEarlyFees {
		m.charge(hold, messageID, early.prices)
	}
}

func (m *memory) Capture(ctx context.Context, id store.HoldID, messageID string) error {
	return m.settle(ctx, id, store.KindCapture, store.KindRelease, messageID)
}

func (m *memory) Release(ctx context.Context, id store.HoldID) error {
	return m.settle(ctx, id, store.KindRelease, store.KindCapture, "")
}

func (m *memory) InDoubt(ctx context.Context, before time.Time, outcome store.Outcome) (n int, err error) {
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		return 0, err
	}
	kind := map[store.Outcome]store.Kind{store.Captured: store.KindCapture, store.Released: store.KindRelease}[outcome]
	for _, e := range slices.Clone(m.entries) {
		id := store.HoldID(e.ID)
		if e.Kind != store.KindHold || !e.At.Before(before) && m.fault != settlesAll ||
			m.entry(id.EntryID(store.KindCapture)) != nil || m.entry(id.EntryID(store.KindRelease)) != nil {
			continue
		}
		m.append(e.account, store.Entry{ID: id.EntryID(kind), Kind: kind, Amount: e.Amount, AppID: e.AppID})
		n++
	}
	return n, nil
}

func (m *memory) Credit(ctx context.Context, account tenant.AccountID, amount pricing.Micros, operation string) (store.Balance, error) {
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		return store.Balance{}, err
	}
	if m.account(account) == nil {
		return store.Balance{}, store.ErrNotFound
	}
	if store.ReservedEntryID(operation) && m.fault != sellsFeeIDs {
		return store.Balance{}, store.ErrConflict
	}
	if e := m.entry(operation); e != nil && m.fault != creditsTwice {
		if e.Kind != store.KindCredit || e.account != account || e.Amount != amount {
			return store.Balance{}, store.ErrConflict
		}
		return m.balances[account], nil
	}
	b := m.balances[account]
	total := b.Available + b.Held + b.Captured
	if m.fault == overflows {
		total = b.Available
	}
	if _, err := total.Add(amount); err != nil {
		return store.Balance{}, err
	}
	m.append(account, store.Entry{ID: operation, Kind: store.KindCredit, Amount: amount})
	return m.balances[account], nil
}

func (m *memory) Balance(ctx context.Context, account tenant.AccountID) (store.Balance, error) {
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		return store.Balance{}, err
	}
	if m.account(account) == nil {
		return store.Balance{}, store.ErrNotFound
	}
	return m.balances[account], nil
}

func (m *memory) Ledger(ctx context.Context, account tenant.AccountID, since time.Time) iter.Seq2[store.Entry, error] {
	return func(yield func(store.Entry, error) bool) {
		entries, err := m.since(ctx, account, since)
		if err != nil {
			yield(store.Entry{}, err)
			return
		}
		for _, e := range entries {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (m *memory) since(ctx context.Context, account tenant.AccountID, since time.Time) (entries []store.Entry, err error) {
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		return nil, err
	}
	if m.account(account) == nil {
		return nil, store.ErrNotFound
	}
	for _, e := range m.entries {
		if e.account == account && !e.At.Before(since) {
			entries = append(entries, e.Entry)
		}
	}
	return entries, nil
}
