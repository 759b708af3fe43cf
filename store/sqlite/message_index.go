package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"hash/fnv"
	"slices"
	"strconv"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

const (
	// indexBatch is how many messages are indexed together: enough that many of them
	// share each page of the index.
	indexBatch = 1 << 14
	// indexChunk is how many of them one commit writes, so that none takes long: in a large
	// index, each has a page of its own. They are twice the sends of a tailChunk, so that a
	// batch is written before the next one has come.
	indexChunk = 2 * tailChunk
)

// messageIndex finds the capture of a message by Meta's id. The messages that are not
// in the table yet are here; who restarts finds them in the ledger.
type messageIndex struct {
	batch   int       // how many are a batch
	fresh   []indexed // as they came
	sorted  []indexed // the batch that is being written, by key
	written int       // of sorted, by transactions that are committed
	writing int       // and by the one under way
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
func (x *messageIndex) due() bool { return len(x.sorted) > 0 || len(x.fresh) >= x.batch }

// loadMessages notes the messages that are not in the table. Where there are very many,
// in a database of an earlier release, it indexes them at once.
func (w *writer) loadMessages(ctx context.Context) error {
	const page = 4 * indexBatch
	for {
		rows, err := w.conn.QueryContext(ctx, `SELECT seq, message_id FROM ledger
			WHERE seq > ifnull((SELECT CAST(value AS INTEGER) FROM settings WHERE name = 'messages_indexed'), 0)
			AND kind = 'capture' AND message_id IS NOT NULL ORDER BY seq LIMIT ?`, page)
		found, err := collect(rows, err, func(scan func(...any) error) (i indexed, err error) {
			var id string
			err = scan(&i.seq, &id)
			i.key = messageKey(id)
			return i, err
		})
		if err != nil {
			return err
		}
		if len(found) < page || found[page-1].seq > w.indexedUpTo() {
			w.messages.fresh = found
			return nil
		}
		if err := w.indexPage(found); err != nil {
			return err
		}
	}
}

// indexPage writes messages in a transaction of their own.
func (w *writer) indexPage(page []indexed) error {
	upTo := page[len(page)-1].seq
	slices.SortFunc(page, byKey)
	return w.alone(func() error {
		for _, i := range page {
			if _, err := w.commands.insertMessage.exec(i.key, i.seq); err != nil {
				return err
			}
		}
		return w.setIndexed(upTo)
	})
}

func byKey(a, b indexed) int { return cmp.Compare(a.key, b.key) }

// setIndexed writes down up to which seq all messages are in the table.
func (w *writer) setIndexed(seq int64) error {
	_, err := w.write(`INSERT INTO settings (name, value) VALUES ('messages_indexed', ?)
		ON CONFLICT (name) DO UPDATE SET value = excluded.value`, strconv.FormatInt(seq, 10))
	return err
}

// indexMessages writes some of a batch, in the order of the keys.
func (w *writer) indexMessages() error {
	x := &w.messages
	if !x.due() {
		return nil
	}
	if len(x.sorted) == 0 {
		x.sorted = slices.Clone(x.fresh[:x.batch])
		x.fresh = slices.Delete(x.fresh, 0, x.batch)
		slices.SortFunc(x.sorted, byKey)
	}
	chunk := x.sorted[x.written:min(x.written+indexChunk, len(x.sorted))]
	for _, i := range chunk {
		if _, err := w.commands.insertMessage.exec(i.key, i.seq); err != nil {
			return err
		}
	}
	x.writing = len(chunk)
	if x.written+x.writing < len(x.sorted) {
		return nil
	}
	return w.setIndexed(w.indexedUpTo())
}

// indexedUpTo is the seq up to which every capture is in the table or in the batch.
func (w *writer) indexedUpTo() int64 {
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

// committed drops a batch that has been written.
func (x *messageIndex) committed() {
	x.written, x.writing = x.written+x.writing, 0
	if x.written == len(x.sorted) {
		x.sorted, x.written = nil, 0
	}
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
	first, _ := slices.BinarySearchFunc(w.messages.sorted, indexed{key: key}, byKey)
	last := first
	for last < len(w.messages.sorted) && w.messages.sorted[last].key == key {
		last++
	}
	for _, among := range [][]indexed{found, w.messages.sorted[first:last], w.messages.fresh} {
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
