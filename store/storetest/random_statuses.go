package storetest

import (
	"errors"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// someHold is any that was asked for, more often a recent one.
func (p *player) someHold() store.HoldID {
	if recent := p.asked[max(0, len(p.asked)-4):]; p.IntN(3) > 0 {
		return pick(p.Rand, recent).HoldID
	}
	return pick(p.Rand, p.asked).HoldID
}

// messageOf is one of the messages that only this hold is captured for, more
// often one whose fee came early.
func (p *player) messageOf(id store.HoldID) string {
	messageID := "wamid." + string(id)
	for _, suffix := range []string{".1", ".2", ".3"} {
		if _, early := p.m.early[messageID+suffix]; early && p.IntN(3) > 0 {
			return messageID + suffix
		}
	}
	return messageID + pick(p.Rand, []string{".1", ".1", ".1", ".2", ".3"})
}

// pricesOf is always the same for a message; for some there is no price in
// every currency.
func pricesOf(messageID string) map[string]pricing.Micros {
	switch {
	case strings.HasSuffix(messageID, ".2"):
		return map[string]pricing.Micros{"EUR": 1_234}
	case strings.HasSuffix(messageID, ".3"):
		return map[string]pricing.Micros{"EUR": 0, "USD": 1}
	}
	return map[string]pricing.Micros{"USD": 700, "EUR": 650, "TRY": 3_000}
}

func (p *player) someStatuses() {
	var statuses []store.Status
	for range 1 + p.IntN(3) {
		id := p.someHold()
		s := store.Status{Hold: id, MessageID: p.messageOf(id)}
		switch p.IntN(5) {
		case 0, 1:
			s.Hold = ""
		case 2:
			s.Hold = store.NewHoldID()
		}
		if p.IntN(3) > 0 {
			s.TemplateFee = pricesOf(s.MessageID)
		}
		statuses = append(statuses, s)
	}
	p.statuses(statuses...)
}

func (p *player) statuses(statuses ...store.Status) {
	p.Helper()
	for i, got := range p.report(statuses...) {
		want, other := p.m.status(statuses[i])
		if got.Settled != want.Settled || got.Fee != want.Fee && got.Fee != other {
			p.Errorf("status: settled %v, %s; want %v, %s", got.Settled, feeName(got.Fee), want.Settled, feeName(want.Fee))
		}
	}
}

// restartEarly brings the early fees again after a restart, which a store may
// have forgotten.
func (p *player) restartEarly() {
	p.restart()
	for messageID, prices := range maps.Clone(p.m.early) {
		p.statuses(store.Status{MessageID: messageID, TemplateFee: prices})
	}
}

// sent is a hold in [racingBooks], and what has been done about it.
type sent struct {
	store.Admission
	messageID             string
	mayBeReleased         bool
	feesLeft              atomic.Int32 // how many more statuses have its fee
	billed                atomic.Bool
	settled, feeIsCharged atomic.Int32
}

// Many report the same messages, each in any order; when all is told, the
// ledger is what it would be had it been told one by one.
func racingBooks(f *fixture) {
	seed := Rand(f)
	currencies := map[tenant.AccountID]string{f.account(1): "USD", f.accountIn("EUR", 1): "EUR"}
	all := f.sendSome(currencies, 60)
	var wg sync.WaitGroup
	for range 12 {
		r := rand.New(rand.NewPCG(seed.Uint64(), 0))
		wg.Go(func() {
			for range f.steps(150) {
				if err := f.racingMove(r, all); err != nil {
					f.Error(err)
				}
			}
		})
	}
	wg.Wait()
	m := newModel(currencies)
	for _, s := range all {
		f.must(f.tell(s, store.Status{Hold: s.HoldID, MessageID: s.messageID}))
		if settled, charged := s.settled.Load(), s.feeIsCharged.Load(); settled > 1 || charged > 1 {
			f.Errorf("%d statuses settled one hold, and %d were told that they charged one fee", settled, charged)
		}
	}
	f.restart()
	f.replayBooks(m, all)
	for account, w := range m.wallets {
		got := make(map[string]store.Entry)
		for _, e := range f.audit(account) {
			if e.Kind != store.KindCredit {
				e.Seq, e.Balance, e.At = 0, 0, time.Time{}
				got[e.ID] = e
			}
		}
		f.wantSame("ledger", got, w.entries)
	}
}

// sendSome makes n holds, of which every fourth is released again at once and
// every fourth may be.
func (f *fixture) sendSome(currencies map[tenant.AccountID]string, n int) (all []*sent) {
	f.Helper()
	for account := range currencies {
		f.credit(account, feeTimes(n))
		for i := range n / len(currencies) {
			s := &sent{Admission: ask(store.Hold, newAppID(), account, roomy), messageID: newMessageID(), mayBeReleased: i%4 == 1}
			s.feesLeft.Store(int32(i % 3))
			f.wantVerdict(s.Admission, store.Admitted)
			if i%4 == 0 {
				f.must(f.Release(f.Context(), s.HoldID))
			}
			all = append(all, s)
		}
	}
	return all
}

func (f *fixture) racingMove(r *rand.Rand, all []*sent) error {
	s := pick(r, all)
	switch n := r.IntN(10); {
	case n < 3:
		if err := f.Capture(f.Context(), s.HoldID, s.messageID); !errors.Is(err, store.ErrConflict) {
			return err
		}
		return nil
	case n == 3 && s.mayBeReleased:
		if err := f.Release(f.Context(), s.HoldID); !errors.Is(err, store.ErrConflict) {
			return err
		}
		return nil
	}
	status := store.Status{Hold: pick(r, []store.HoldID{s.HoldID, s.HoldID, "", store.NewHoldID()}), MessageID: s.messageID}
	if s.feesLeft.Add(-1) >= 0 {
		status.TemplateFee = prices
	}
	return f.tell(s, status)
}

// tell reports a status, some of them with an event.
func (f *fixture) tell(s *sent, status store.Status) error {
	results, err := f.Receive(f.Context(), newEvents(s.App, len(status.Hold)%2), []store.Status{status})
	if err != nil {
		return err
	}
	if results[0].Settled {
		s.settled.Add(1)
	}
	if results[0].Fee == store.FeeCharged {
		s.feeIsCharged.Add(1)
	}
	if status.TemplateFee != nil {
		s.billed.Store(true)
	}
	return nil
}

// replayBooks does on the model what the race has decided.
func (f *fixture) replayBooks(m *model, all []*sent) {
	f.Helper()
	released := make(map[string]bool)
	for account := range m.wallets {
		m.wallets[account].balance.Available = 1 << 40 // the entries alone are compared
		for _, e := range f.ledger(account, time.Time{}) {
			released[e.ID] = e.Kind == store.KindRelease
		}
	}
	for _, s := range all {
		m.admit(s.Admission, time.Time{})
		if released[s.HoldID.EntryID(store.KindRelease)] {
			f.must(m.settle(s.HoldID, store.KindRelease, ""))
		}
		status := store.Status{Hold: s.HoldID, MessageID: s.messageID}
		if s.billed.Load() {
			status.TemplateFee = prices
		}
		m.status(status)
	}
}
