package sqlite

import (
	"errors"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/connexease/caddy-whatsapp-gateway/store"
)

// enterTail enters the holds that have an outcome, at most so many, and those without
// one that due is true of.
func (w *writer) enterTail(most int, due func(*recentHold) bool) error {
	settled := make([]*recentHold, 0, min(most, len(w.tail.settled)))
	for _, h := range w.tail.settled {
		if len(settled) == most {
			break
		}
		if !h.entered {
			settled = append(settled, h)
		}
	}
	if err := w.enterTogether(settled); err != nil {
		return err
	}
	for _, h := range w.tail.made {
		if h.entered || !h.open() || !due(h) {
			continue
		}
		if err := w.enterOpen(h); err != nil {
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

// enterTogether enters holds that have an outcome, as many at a time as SQLite is to have
// in memory.
func (w *writer) enterTogether(settled []*recentHold) error {
	written := 0
	for i, h := range settled {
		w.addEntry(h)
		if w.commands.insertEntries.full() || i == len(settled)-1 {
			chunk := settled[written : i+1]
			err := w.writeEntries(chunk)
			if seqTaken(err) { // and nothing was written
				err = w.enterApart(chunk)
			}
			if err != nil {
				return err
			}
			written = i + 1
		}
	}
	return nil
}

// enterApart enters holds that have an outcome one by one, with another seq where theirs is taken.
func (w *writer) enterApart(settled []*recentHold) error {
	for i, h := range settled {
		w.addEntry(h)
		err := w.writeEntries(settled[i : i+1])
		for seqTaken(err) {
			w.seq++
			h.outcome.seq = w.seq
			w.addEntry(h)
			err = w.writeEntries(settled[i : i+1])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// addEntry adds the entry of a hold that has an outcome to the bulk.
func (w *writer) addEntry(h *recentHold) {
	b, r := w.commands.insertEntries, &h.outcome
	b.number(r.seq)
	b.text(string(r.kind), h.hold.Suffix())
	b.text(string(h.account))
	b.text(string(r.kind))
	b.number(int64(h.amount))
	b.number(int64(r.balance))
	b.text(string(h.app))
	b.text(r.messageID)
	b.number(r.at)
	b.number(h.seq)
	b.number(int64(h.balance))
	b.number(h.at)
}

// writeEntries writes the entries of holds, which are in the bulk.
func (w *writer) writeEntries(settled []*recentHold) error {
	n, err := w.commands.insertEntries.write()
	if err == nil && n != int64(len(settled)) {
		err = errEntered
	}
	if err != nil {
		return err
	}
	for _, h := range settled {
		if err := w.noteEntered(h); err != nil {
			return err
		}
	}
	return nil
}

var errEntered = errors.New("an entry of the ledger's tail is in the ledger already")

// seqTaken tells whether an entry could not be written because a hand that knows better has
// added to the ledger.
func seqTaken(err error) bool { return err != nil && strings.Contains(err.Error(), "ledger.seq") }

// enterOpen enters a hold that has no outcome, as an entry of its own.
func (w *writer) enterOpen(h *recentHold) error {
	_, err := w.commands.insertHold.exec(string(h.hold), string(h.account), string(h.app), int64(h.amount), h.at)
	if err != nil {
		return err
	}
	var n int64
	for {
		n, err = w.commands.insertEntry.exec(h.seq, h.hold.EntryID(h.kind), string(h.account), string(h.kind), int64(h.amount),
			int64(h.balance), null(h.app), nil, h.at)
		if !seqTaken(err) {
			break
		}
		w.seq++
		h.seq = w.seq
	}
	if err == nil && n == 0 {
		err = errEntered
	}
	if err != nil {
		return err
	}
	return w.noteEntered(h)
}

// noteEntered notes that a hold has been entered, with its outcome if it has one.
func (w *writer) noteEntered(h *recentHold) error {
	wl, err := w.walletOfEntry(h.account)
	if err != nil {
		return err
	}
	r, after := &h.record, wl.entered.after(store.Entry{Kind: store.KindHold, Amount: h.amount})
	if !h.open() {
		r = &h.outcome
		after = after.after(store.Entry{Kind: r.kind, Amount: h.amount})
	}
	w.messages.add(r)
	w.accounts.add(h.account, r.seq)
	h.entered = true
	w.tail.entered++
	wl.entered = after
	w.touch(wl)
	return nil
}
