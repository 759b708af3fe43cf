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
	messageBatch = messageBuckets * tailChunk
	// messageBuckets is how many parts a batch has, by the first messageBits of the keys. With each tailChunk
	// of sends that is entered, one part is written: a batch is in the table when the next one has
	// come, and no commit takes long.
	messageBuckets = 1 << messageBits
	messageBits    = 9
	// messagesIndexed is the setting that says up to which seq.
	messagesIndexed = "messages_indexed"
)

// messageIndex finds the capture of a message by Meta's id. The messages that are not
// in the table yet are here; who restarts finds them in the ledger.
type messageIndex struct {
	size  int // how many are a batch
	fresh *buckets
	// added are the buckets of fresh to which the transaction under way has added, one for each message,
	// which is among the last of its bucket.
	added []int32
	// batch is what is being written. The buckets before written are in the table, those before
	// writing will be with the transaction under way.
	batch            *buckets
	written, writing int
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

// buckets are messages, apart by the first bits of their keys.
type buckets struct {
	rows  [messageBuckets][]indexed
	count int
}

// bucketOf is where a key belongs. The keys of one bucket are smaller than those of the next.
func bucketOf(key int64) int {
	return int((uint64(key) ^ 1<<63) >> (64 - messageBits))
}

// add adds a message, and returns to which bucket.
func (b *buckets) add(i indexed) int {
	bucket := bucketOf(i.key)
	b.rows[bucket] = append(b.rows[bucket], i)
	b.count++
	return bucket
}

// messageOf is the row of a capture; there is none of other records, and of a message whose id is unknown.
func messageOf(r *record) (row indexed, ok bool) {
	if r.kind != store.KindCapture || r.messageID == "" {
		return indexed{}, false
	}
	return indexed{messageKey(r.messageID), r.seq}, true
}

// add notes a capture. Noting it twice does no harm, and neither does one that is
// rolled back: what is found is looked up in the ledger.
func (x *messageIndex) add(r *record) {
	if row, ok := messageOf(r); ok {
		x.added = append(x.added, int32(x.fresh.add(row)))
	}
}

// due tells whether there is something to write.
func (x *messageIndex) due() bool { return x.batch != nil || x.fresh.count >= x.size }

// committed forgets what has been written. The ledger has nothing behind that seq.
func (x *messageIndex) committed(seq int64) {
	x.added, x.seen = x.added[:0], seq
	if x.written = x.writing; x.written == messageBuckets {
		x.batch, x.written, x.writing = nil, 0, 0
	}
}

// rolledBack forgets what the transaction under way has added, unless it is in the batch already.
func (x *messageIndex) rolledBack() {
	for _, bucket := range x.added {
		rows := &x.fresh.rows[bucket]
		*rows = (*rows)[:len(*rows)-1]
	}
	x.fresh.count -= len(x.added)
	x.added, x.writing = x.added[:0], x.written
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
			for _, i := range found {
				w.messages.fresh.add(i)
			}
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
	for _, i := range found {
		x.fresh.add(i)
	}
	x.seen = w.seq
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

// indexMessages writes a part of a batch, in the order of the keys.
func (w *writer) indexMessages() error {
	x := &w.messages
	if !x.due() {
		return nil
	}
	if x.batch == nil {
		x.batch, x.fresh, x.added = x.fresh, new(buckets), x.added[:0]
	}
	for wrote := false; x.writing < messageBuckets && !wrote; x.writing++ {
		rows := x.batch.rows[x.writing]
		slices.SortFunc(rows, byKey)
		if err := w.insertMessages(rows); err != nil {
			return err
		}
		wrote = len(rows) > 0
	}
	if x.writing < messageBuckets {
		return nil
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
	for _, rows := range w.messages.fresh.rows {
		for _, i := range rows {
			upTo = min(upTo, i.seq-1)
		}
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
	everywhere := [][]indexed{found, w.messages.fresh.rows[bucketOf(key)]}
	if w.messages.batch != nil {
		everywhere = append(everywhere, w.messages.batch.rows[bucketOf(key)])
	}
	for _, among := range everywhere {
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
