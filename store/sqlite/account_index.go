package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

const (
	// accountBatch is how many entries are indexed together: enough that accounts in use have many each.
	accountBatch = 1 << 14
	// accountChunk is how many rows of a batch one commit writes, so that none takes long: in a large
	// index, each has a page of its own. They are twice the sends of a tailChunk, so that a
	// batch is written before the next one has come.
	accountChunk = 2 * tailChunk
	// accountsIndexed is the setting that says up to which seq.
	accountsIndexed = "accounts_indexed"
)

// accountIndex finds the entries of an account. Those that are not in the table account_entries yet
// are here, or found in the ledger.
type accountIndex struct {
	size  int // how many entries are a batch
	chunk int // how many rows of one are written with a commit
	// count is of how many others it knows: all of them where they are in fresh.
	count int
	// fresh are their seqs, each behind a comma. It is nil while they have to be read from the ledger: after
	// the start, when a transaction has failed, or when another process has written.
	fresh map[tenant.AccountID][]byte
	// batch is what is being written, those before written by transactions that are committed, those
	// before writing by the one under way.
	batch            []accountEntries
	written, writing int
	// indexed is the seq up to which all are in the table, and upTo that of the batch.
	indexed, upTo int64
}

// accountEntries is a row of the table, but for its upto.
type accountEntries struct {
	account tenant.AccountID
	seqs    []byte
}

// add notes an entry.
func (x *accountIndex) add(account tenant.AccountID, seq int64) {
	x.count++
	if x.fresh != nil {
		x.fresh[account] = strconv.AppendInt(append(x.fresh[account], ','), seq, 10)
	}
}

// due tells whether there is something to write.
func (x *accountIndex) due() bool { return len(x.batch) > 0 || x.count >= x.size }

// committed forgets what has been written.
func (x *accountIndex) committed() {
	if x.written = x.writing; len(x.batch) > 0 && x.written == len(x.batch) {
		x.batch, x.written, x.writing = nil, 0, 0
		x.indexed = x.upTo
	}
}

// rolledBack forgets what the transaction under way has added, and a batch that it has begun.
func (x *accountIndex) rolledBack() {
	x.fresh = nil
	if x.writing = x.written; x.written == 0 && len(x.batch) > 0 {
		x.batch, x.count = nil, x.size
	}
}

// loadAccounts counts the entries that are not in the table. Where there are enough for a batch, as in a
// database of an earlier release, it indexes them at once.
func (w *writer) loadAccounts(ctx context.Context) (err error) {
	x := &w.accounts
	if x.indexed, err = indexedUpTo(ctx, w.conn, accountsIndexed); err != nil {
		return err
	}
	for {
		var upTo int64 // of a batch
		err := w.conn.QueryRowContext(ctx, `SELECT count(*), ifnull(max(seq), 0) FROM
			(SELECT seq FROM ledger WHERE seq > ? ORDER BY seq LIMIT ?)`, x.indexed, accountBatch).Scan(&x.count, &upTo)
		if err != nil || x.count < accountBatch || upTo > w.enteredUpTo() {
			return err
		}
		if err := w.alone(func() error { return w.indexEntries(upTo) }); err != nil {
			return err
		}
		x.indexed = upTo
	}
}

// indexEntries indexes the entries up to a seq.
func (w *writer) indexEntries(upTo int64) error {
	_, err := w.write(`INSERT OR REPLACE INTO account_entries SELECT account_id, ?1, json_group_array(seq)
		FROM ledger WHERE seq > ?2 AND seq <= ?1 GROUP BY account_id`, upTo, w.accounts.indexed)
	if err != nil {
		return err
	}
	return w.setIndexed(accountsIndexed, upTo)
}

// readFresh notes the entries that are not in the table, as the ledger has them.
func (w *writer) readFresh() error {
	x := &w.accounts
	rows, err := w.conn.QueryContext(context.Background(), "SELECT account_id, seq FROM ledger WHERE seq > ? ORDER BY seq", x.indexed)
	if err != nil {
		return err
	}
	defer rows.Close()
	x.fresh, x.count = make(map[tenant.AccountID][]byte), 0
	for rows.Next() {
		var account tenant.AccountID
		var seq int64
		if err := rows.Scan(&account, &seq); err != nil {
			return err
		}
		x.add(account, seq)
	}
	return rows.Err() // which undoes it
}

// enteredUpTo is the seq up to which nothing will be entered any more.
func (w *writer) enteredUpTo() int64 {
	upTo := w.seq
	for _, h := range w.tail.made {
		if !h.entered {
			upTo = min(upTo, h.seq-1)
		}
	}
	return upTo
}

// indexAccounts writes some of a batch, in the order of the accounts.
func (w *writer) indexAccounts() error {
	x := &w.accounts
	if !x.due() {
		return nil
	}
	if len(x.batch) == 0 {
		if x.fresh == nil {
			if err := w.readFresh(); err != nil {
				return err
			}
		}
		upTo := w.enteredUpTo()
		if x.count < x.size || upTo <= x.indexed {
			return nil
		}
		for _, account := range slices.Sorted(maps.Keys(x.fresh)) {
			x.batch = append(x.batch, accountEntries{account, x.fresh[account]})
		}
		clear(x.fresh)
		x.count, x.upTo = 0, upTo
	}
	x.writing = min(x.written+x.chunk, len(x.batch))
	for _, r := range x.batch[x.written:x.writing] {
		r.seqs[0] = '[' // in place of the comma
		if _, err := w.commands.insertAccountEntries.exec(string(r.account), x.upTo, string(r.seqs)+"]"); err != nil {
			return err
		}
	}
	if x.writing < len(x.batch) {
		return nil
	}
	return w.setIndexed(accountsIndexed, x.upTo)
}

// entrySeqs hands out the seqs of an account's entries, in their order, as far as they are indexed, and
// returns how far that is. It is many at a time, as a JSON array.
func (s *Store) entrySeqs(ctx context.Context, account tenant.AccountID, yield func(seqs []byte) error) (indexed int64, err error) {
	// What is indexed from now on is of later batches.
	if indexed, err = indexedUpTo(ctx, s.reading, accountsIndexed); err != nil {
		return 0, err
	}
	var found []int64 // and not handed out: a row has some of what is behind its upto, too
	for last := int64(0); last < indexed; {
		upTo, more := indexed, []byte("[]")
		err := s.reading.QueryRowContext(ctx, "SELECT upto, seqs FROM account_entries WHERE account_id = ? AND upto > ? AND upto <= ? ORDER BY upto LIMIT 1",
			account, last, indexed).Scan(&upTo, &more)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return 0, err
		}
		var seqs []int64
		if err := json.Unmarshal(more, &seqs); err != nil {
			return 0, fmt.Errorf("a row of account_entries cannot be read: %w", err)
		}
		found = append(found, seqs...)
		slices.Sort(found)
		// A batch that was cut off by a crash comes again, in a larger one.
		from, _ := slices.BinarySearch(found, last+1)
		to, _ := slices.BinarySearch(found, upTo+1)
		if from < to {
			text, err := json.Marshal(found[from:to])
			if err == nil {
				err = yield(text)
			}
			if err != nil {
				return 0, err
			}
		}
		found, last = found[to:], upTo
	}
	return indexed, nil
}
