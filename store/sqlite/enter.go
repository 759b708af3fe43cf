package sqlite

import (
	"database/sql/driver"
	"errors"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/connexease/caddy-whatsapp-gateway/store"
)

// enterTail enters the holds that have an outcome, at most so many, and those without
// one that due is true of.
func (w *writer) enterTail(most int, due func(*recentHold) bool) error {
	for _, h := range w.tail.settled {
		if most == 0 {
			break
		}
		if h.entered {
			continue
		}
		if err := w.enterRecent(h); err != nil {
			return err
		}
		most--
	}
	for _, h := range w.tail.made {
		if h.entered || !h.open() || !due(h) {
			continue
		}
		if err := w.enterRecent(h); err != nil {
			return err
		}
	}
	return nil
}

// enterAll enters the whole tail.
func (w *writer) enterAll() error {
	return w.enterTail(len(w.tail.settled), func(*recentHold) bool { return true })
}

// overdue tells whether a hold has waited long enough for its outcome, by the clock or,
// where that was set back, by what has come since.
func (w *writer) overdue(h *recentHold) bool {
	age := w.clock().Sub(time.UnixMicro(h.at))
	return age > tailAge || age < -tailAge || w.seq-h.seq > 16*tailChunk
}

// tidyDue tells whether something is to be entered or indexed now.
func (w *writer) tidyDue() bool {
	if w.windows == nil || time.Now().Before(w.tidyAgain) { // a command leaves it to the gateway
		return false
	}
	t := &w.tail
	if len(t.settled) > 0 {
		rested := w.clock().Sub(time.UnixMicro(t.settled[0].outcome.at)) > tailRest
		if t.due() || rested || w.committed <= idleGroup {
			return true
		}
	}
	return len(t.made) > 0 && w.overdue(t.made[0]) || w.messages.due() || w.accounts.due()
}

// tidy enters and indexes some of what is to be, in a transaction of its own: where that
// fails, sends go on, and it is tried again after a while.
func (w *writer) tidy() {
	if err := w.alone(w.enterAndIndex); err != nil {
		w.tidyAgain = time.Now().Add(tidyRetry)
		w.log().Error("sends could not be entered in the ledger and stay in its tail", zap.Error(err))
	}
}

// enterAndIndex is [writer.tidy] within the transaction under way.
func (w *writer) enterAndIndex() error {
	if err := w.enterTail(tailChunk, w.overdue); err != nil {
		return err
	}
	if err := w.indexMessages(); err != nil {
		return err
	}
	return w.indexAccounts()
}

// enterRecent enters a hold, with its outcome if it has one.
func (w *writer) enterRecent(h *recentHold) error {
	wl, err := w.walletOfEntry(h.account)
	if err != nil {
		return err
	}
	after := wl.entered.after(store.Entry{Kind: store.KindHold, Amount: h.amount})
	r, held := &h.record, [3]driver.Value{}
	if h.open() {
		_, err = w.commands.insertHold.exec(string(h.hold), string(h.account), string(h.app), int64(h.amount), h.at)
	} else {
		after = after.after(store.Entry{Kind: h.outcome.kind, Amount: h.amount})
		r, held = &h.outcome, [3]driver.Value{h.seq, int64(h.balance), h.at}
	}
	if err != nil {
		return err
	}
	var n int64
	for {
		n, err = w.commands.insertEntry.exec(r.seq, h.hold.EntryID(r.kind), string(h.account), string(r.kind), int64(h.amount),
			int64(r.balance), null(h.app), null(r.messageID), r.at, held[0], held[1], held[2])
		if err == nil || !strings.Contains(err.Error(), "ledger.seq") {
			break
		}
		w.seq++ // a hand that knows better has added to the ledger
		r.seq = w.seq
	}
	if err == nil && n == 0 {
		err = errors.New("an entry of the ledger's tail is in the ledger already")
	}
	if err != nil {
		return err
	}
	w.messages.add(r)
	w.accounts.add(h.account, r.seq)
	h.entered = true
	w.tail.entered++
	wl.entered = after
	w.touch(wl)
	return nil
}
