package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"hash/fnv"
	"slices"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

const (
	// messageBatch is how many messages are indexed together: enough that many of them
	// share each page of the index.
	messageBatch = 1 << 15
	// messagesIndexed is the setting that says up to which seq.
	messagesIndexed = "messages_indexed"
)

// messageIndex finds the capture of a message by Meta's id. The messages that are not
// in the table yet are here; who restarts finds them in the ledger.
type messageIndex struct {
	size  int       // how many are a batch
	fresh []indexed // as they came
	kept  int       // how many of fresh the transactions before the one under way have added
	batch batch[indexed]
	// seen is the seq up to which it knows the captures in the ledger: those behind are of another process.
	seen int64
}

// indexed is a row of the table.
type indexed struct{ key, seq int64 }

func messageKey(id string) int64 {
	hash := fnv.New64a()
	hash.Write([]byte(id)) // it never fails
	return int64(hash.Sum64())
}

// add notes a capture. Noting it twice does no harm, and neither does one that is
// rolled back: what is found is looked up in the ledger.
func (x *messageIndex) add(r *record) {
	if r.kind == store.KindCapture && r.messageID != "" {
		x.fresh = append(x.fresh, indexed{messageKey(r.messageID), r.seq})
	}
}

// due tells whether there is something to write.
func (x *messageIndex) due() bool { return len(x.batch.rows) > 0 || len(x.fresh) >= x.size }

// committed forgets what has been written. The ledger has nothing behind that seq.
func (x *messageIndex) committed(seq int64) {
	x.batch.committed()
	x.kept, x.seen = len(x.fresh), seq
}

// rolledBack forgets what the transaction under way has added, unless it is in the batch already.
func (x *messageIndex) rolledBack() {
	x.batch.rolledBack()
	x.fresh = x.fresh[:min(x.kept, len(x.fresh))]
}

// loadMessages notes the messages that are not in the table. Where there are enough
// for a batch, as in a database of an earlier release, it indexes them at once.
func (w *writer) loadMessages(ctx context.Context) error {
	w.messages.seen = w.seq
	for {
		upTo, err := indexedUpTo(ctx, w.conn, messagesIndexed)
		if err != nil {
			return err
		}
		found, err := w.messagesBehind(ctx, upTo, messageBatch)
		if err != nil {
			return err
		}
		if len(found) < messageBatch || found[messageBatch-1].seq > w.capturesUpTo() {
			w.messages.fresh, w.messages.kept = found, len(found)
			return nil
		}
		if err := w.writeMessages(found); err != nil {
			return err
		}
	}
}

// messagesBehind finds the first messages in the ledger behind a seq, at most so many; -1 is all.
func (w *writer) messagesBehind(ctx context.Context, seq int64, most int) ([]indexed, error) {
	rows, err := w.conn.QueryContext(ctx, `SELECT seq, message_id FROM ledger
		WHERE seq > ? AND kind = 'capture' AND message_id IS NOT NULL ORDER BY seq LIMIT ?`, seq, most)
	return collect(rows, err, func(scan func(...any) error) (i indexed, err error) {
		var id string
		err = scan(&i.seq, &id)
		i.key = messageKey(id)
		return i, err
	})
}

// noteMessages notes what another process has captured: a command settles what a gateway that was
// killed has left behind.
func (w *writer) noteMessages() error {
	x := &w.messages
	found, err := w.messagesBehind(context.Background(), x.seen, -1)
	if err != nil {
		return err
	}
	x.fresh = append(x.fresh, found...)
	x.kept, x.seen = len(x.fresh), w.seq
	return nil
}

// writeMessages writes messages in a transaction of their own.
func (w *writer) writeMessages(page []indexed) error {
	upTo := page[len(page)-1].seq
	slices.SortFunc(page, byKey)
	return w.alone(func() error {
		if err := w.insertMessages(page); err != nil {
			return err
		}
		return w.setIndexed(messagesIndexed, upTo)
	})
}

func byKey(a, b indexed) int { return cmp.Compare(a.key, b.key) }

// indexMessages writes some of a batch, in the order of the keys.
func (w *writer) indexMessages() error {
	x := &w.messages
	if !x.due() {
		return nil
	}
	if len(x.batch.rows) == 0 {
		x.batch.rows = slices.Clone(x.fresh[:x.size])
		x.fresh, x.kept = slices.Delete(x.fresh, 0, x.size), max(x.kept-x.size, 0)
		slices.SortFunc(x.batch.rows, byKey)
	}
	rows, last := x.batch.chunk(w.indexChunk)
	if err := w.insertMessages(rows); err != nil || !last {
		return err
	}
	return w.setIndexed(messagesIndexed, w.capturesUpTo())
}

// insertMessages writes rows of the table within the transaction under way.
func (w *writer) insertMessages(rows []indexed) error {
	b := w.commands.insertMessages
	for i, r := range rows {
		b.number(r.key)
		b.number(r.seq)
		if b.full() || i == len(rows)-1 {
			if _, err := b.write(); err != nil {
				return err
			}
		}
	}
	return nil
}

// capturesUpTo is the seq up to which every capture is in the table or in the batch.
func (w *writer) capturesUpTo() int64 {
	upTo := w.seq
	for _, i := range w.messages.fresh {
		upTo = min(upTo, i.seq-1)
	}
	for _, h := range w.tail.settled {
		if !h.entered {
			upTo = min(upTo, h.outcome.seq-1)
		}
	}
	return upTo
}

// senderOf tells who has sent a message; sql.ErrNoRows where nobody has.
func (w *writer) senderOf(messageID string) (app tenant.AppID, account tenant.AccountID, err error) {
	if messageID == "" {
		return "", "", sql.ErrNoRows
	}
	for _, h := range w.tail.settled {
		if h.outcome.messageID == messageID {
			return h.app, h.account, nil
		}
	}
	key := messageKey(messageID)
	rows, err := w.statements.selectMessages.Query(key)
	found, err := collect(rows, err, func(scan func(...any) error) (i indexed, err error) { return i, scan(&i.key, &i.seq) })
	if err != nil {
		return "", "", err
	}
	first, _ := slices.BinarySearchFunc(w.messages.batch.rows, indexed{key: key}, byKey)
	last := first
	for last < len(w.messages.batch.rows) && w.messages.batch.rows[last].key == key {
		last++
	}
	for _, among := range [][]indexed{found, w.messages.batch.rows[first:last], w.messages.fresh} {
		for _, i := range among {
			if i.key != key {
				continue
			}
			err = w.statements.selectCapture.QueryRow(i.seq, messageID).Scan(&account, &app)
			if !errors.Is(err, sql.ErrNoRows) {
				return app, account, err
			}
		}
	}
	return "", "", sql.ErrNoRows
}
