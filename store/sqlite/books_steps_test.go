package sqlite

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// step is the one of a number below 40, or nil where there is nothing to be done.
func (b *books) step(n int) *step {
	switch {
	case n < 12:
		return b.admit()
	case n == 12:
		return b.credit(b.s)
	case n == 13:
		return b.credit(b.command())
	case n < 16:
		return b.look()
	case n < 19:
		return b.deliver()
	case n == 19 && b.IntN(4) == 0:
		return b.settleDoubtful()
	}
	h := b.someHold()
	switch {
	case h == nil:
		return nil
	case n < 28:
		return b.settle(b.s, h, store.KindCapture)
	case n < 31:
		return b.settle(b.s, h, store.KindRelease)
	case n == 31: // what a gateway that was killed has left behind
		return b.settle(b.command(), h, store.KindCapture)
	}
	return b.status(h)
}

// someHold is one that was certainly made, more often a recent one; nil is that there was none.
func (b *books) someHold() *sentHold {
	for range 20 {
		if len(b.sent) == 0 {
			break
		}
		from := 0
		if b.IntN(3) > 0 {
			from = max(0, len(b.sent)-8)
		}
		if h := b.sent[from+b.IntN(len(b.sent)-from)]; b.entries[string(h.HoldID)].state == certain {
			return h
		}
	}
	return nil
}

// command is the store as a command has it.
func (b *books) command() *Store {
	if b.tool == nil {
		b.tool = openTool(b.T, b.path)
	}
	return b.tool
}

func (b *books) admit() *step {
	account := b.accounts[b.IntN(len(b.accounts))]
	a := holdOf(account)
	a.App, a.Fee = b.apps[b.IntN(len(b.apps))], pricing.Micros(b.IntN(2_000))
	h := &sentHold{Admission: a, message: "wamid." + string(a.HoldID), fee: pricing.Micros(1 + b.IntN(50))}
	if again := b.someHold(); again != nil && b.IntN(8) == 0 {
		h = again
	} else {
		b.sent = append(b.sent, h)
	}
	entry := b.expectOf(h, h.HoldID, store.KindHold)
	var d store.Decision
	return &step{
		call: func(ctx context.Context) (err error) { d, err = b.s.Admit(ctx, h.Admission); return err },
		tell: func(err error) {
			switch {
			case b.uncertain(err):
				gone := b.expectOf(h, h.HoldID, store.KindRelease)
				if gone.be(possible); entry.state != certain {
					h.abandoned, gone.last = true, math.MaxInt // it is given back some time
				}
				entry.be(possible)
			case err == nil && d.Verdict == store.Admitted:
				entry.be(certain)
			case err == nil && entry.state == certain:
				b.Errorf("round %d: a hold that was made before is answered with verdict %d", b.round, d.Verdict)
			}
		},
	}
}

func (b *books) credit(s *Store) *step {
	account := b.accounts[b.IntN(len(b.accounts))]
	entry := b.expect(account, store.Entry{ID: tenant.NewID("credit"), Kind: store.KindCredit, Amount: pricing.Micros(b.IntN(20_000) - 4_000)})
	return &step{
		call: func(ctx context.Context) error {
			_, err := s.Credit(ctx, account, entry.Amount, entry.ID)
			if err == nil {
				_, _ = s.Credit(ctx, account, entry.Amount, entry.ID) // which changes nothing
			}
			return err
		},
		tell:    func(err error) { entry.be(b.told(err)) },
		foreign: s != b.s,
	}
}

// settle captures or releases a hold.
func (b *books) settle(s *Store, h *sentHold, kind store.Kind) *step {
	entry, other, outcome := b.expectOf(h, h.HoldID, store.KindCapture), b.expectOf(h, h.HoldID, store.KindRelease), store.Captured
	message := h.message
	if kind == store.KindRelease {
		entry, other, outcome, message = other, entry, store.Released, ""
	}
	fee := b.expectFee(h)
	st := &step{fixed: b.IntN(3) == 0, foreign: s != b.s}
	st.call = func(ctx context.Context) error {
		if !st.fixed {
			return s.settle(ctx, h.HoldID, outcome, message)
		}
		told := make(chan error, 1)
		s.SettleHold(h.HoldID, outcome, message, func(err error) { told <- err })
		return <-told
	}
	st.tell = func(err error) {
		switch {
		case errors.Is(err, store.ErrConflict) && !b.killed:
			other.be(certain)
		case errors.Is(err, store.ErrNotFound):
			b.Errorf("round %d: a hold that was made is unknown", b.round)
		default:
			entry.be(b.told(err))
		}
		if kind == store.KindCapture {
			fee.be(possible) // if it came early
			h.named = h.named || b.told(err) == certain && !h.doubtful
			h.early = h.early && !st.foreign // only the gateway knows of it
		}
	}
	return st
}

// settleDoubtful settles all open holds that were made before now.
func (b *books) settleDoubtful() *step {
	outcome, kind := store.Captured, store.KindCapture
	if b.IntN(2) == 0 {
		outcome, kind = store.Released, store.KindRelease
	}
	var all []*expected
	for _, h := range b.sent {
		entry := b.expectOf(h, h.HoldID, kind)
		all = append(all, entry)
		h.doubtful = true
	}
	return &step{
		call: func(ctx context.Context) error {
			_, err := b.s.InDoubt(ctx, b.clock.Now(), outcome)
			return err
		},
		tell: func(error) {
			for _, entry := range all {
				entry.be(possible)
			}
		},
	}
}

// status reports on a message, with an event, as a webhook that perhaps arrives twice.
func (b *books) status(h *sentHold) *step {
	status := store.Status{MessageID: h.message}
	byHold := b.IntN(2) == 0
	if byHold {
		status.Hold = h.HoldID
	}
	fee := b.expectFee(h)
	if b.IntN(4) > 0 {
		status.TemplateFee = map[string]pricing.Micros{"USD": h.fee}
	}
	captured, known := b.expectOf(h, h.HoldID, store.KindCapture), h.named
	again := []*expected{b.expectOf(h, h.HoldID.Again(), store.KindHold), b.expectOf(h, h.HoldID.Again(), store.KindCapture)}
	events := many(h.App, b.IntN(3))
	for _, e := range events {
		b.events[e.ID] = new(expectedEvent)
	}
	receive := b.s.Receive
	if b.IntN(2) == 0 {
		receive = behind{b.s}.Receive
	}
	var results []store.StatusResult
	return &step{
		call: func(ctx context.Context) (err error) {
			results, err = receive(ctx, events, []store.Status{status})
			return err
		},
		tell: func(err error) {
			for _, e := range events {
				one := b.events[e.ID]
				one.received = max(one.received, b.told(err))
			}
			if byHold && b.told(err) != impossible {
				for _, entry := range append(again, captured) {
					entry.be(possible)
				}
				fee.be(possible) // if it came early
			}
			if b.told(err) == possible && status.TemplateFee != nil {
				fee.be(possible)
			}
			if b.told(err) != certain {
				return
			}
			h.accepted = h.accepted || byHold
			switch results[0].Fee {
			case store.FeeCharged, store.FeeRepeated:
				fee.be(certain)
			case store.FeeUnknownMessage:
				if h.early = true; byHold || known {
					b.Errorf("round %d: whose message it is, is unknown", b.round)
				}
			case store.FeeNotPriced:
				b.Errorf("round %d: a fee has no price", b.round)
			}
		},
	}
}

// deliver claims events and settles them in some way.
func (b *books) deliver() *step {
	app, most := b.apps[b.IntN(len(b.apps))], 1+b.IntN(4)
	result := []store.AttemptResult{store.Delivered, store.Delivered, store.Delivered, store.Failed, store.Returned}[b.IntN(5)]
	attempt := store.Attempt{Result: result, Error: "no"}
	if result == store.Failed {
		attempt.NextAttemptAt = b.clock.Now().Add(time.Second)
	}
	var claimed []store.Claimed
	var settled []error
	return &step{
		fixed: true,
		call: func(ctx context.Context) (err error) {
			if claimed, _, err = b.s.Claim(ctx, app, most, time.Hour); err != nil {
				return err
			}
			for _, c := range claimed {
				settled = append(settled, behind{b.s}.Settle(ctx, c, attempt))
			}
			return nil
		},
		tell: func(error) {
			for i, err := range settled {
				e := b.events[claimed[i].ID]
				if e == nil || e.delivered == certain && e.round < b.round {
					b.Fatalf("round %d: an event is claimed that is not there", b.round)
				}
				if e.received = max(e.received, possible); result == store.Delivered {
					e.delivered, e.round = max(e.delivered, b.told(err)), b.round
				}
			}
		},
	}
}

// look reads some account's balance and ledger, which changes nothing.
func (b *books) look() *step {
	account, s := b.accounts[b.IntN(len(b.accounts))], b.s
	if b.IntN(2) == 0 {
		s = b.command()
	}
	balanced, entered := b.IntN(2) == 0, b.IntN(3) > 0
	return &step{
		call: func(ctx context.Context) (err error) {
			if balanced {
				_, err = s.Balance(ctx, account)
			}
			if entered {
				for range s.Ledger(ctx, account, time.Time{}) {
				}
			}
			return err
		},
		tell:    func(error) {},
		foreign: s != b.s,
	}
}
