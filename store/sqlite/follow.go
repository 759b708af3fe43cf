package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/pricing"
	"github.com/connexease/caddy-whatsapp-gateway/store"
)

// reportPage is how many entries of the ledger are looked through at a time for
// those that are to be reported.
const reportPage = 5_000

// Follow implements [store.Follower]. The writer is not troubled with a version
// that is not newer, which most are.
func (s *Store) Follow(ctx context.Context, t store.Total) error {
	known, err := scanFollowed(s.reading.QueryRowContext(ctx, selectFollowed, t.Account))
	if err == nil && known.currency == t.Currency && known.version >= t.Version {
		return nil
	}
	if err = s.readError(err); err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return s.writer.do(ctx, &operation{apply: func(w *writer) error { return w.follow(t) }})
}

// followed is how far an account follows the Core Service.
type followed struct {
	currency string
	total    pricing.Micros
	version  int64
}

const selectFollowed = "SELECT currency, core_total, core_version FROM accounts WHERE id = ?"

func scanFollowed(row *sql.Row) (f followed, err error) {
	return f, row.Scan(&f.currency, &f.total, &f.version)
}

// follow moves a wallet to a total. Once it has made an account, nothing can
// refuse the total.
func (w *writer) follow(t store.Total) error {
	if _, err := w.begin(); err != nil {
		return err
	}
	last, err := scanFollowed(w.conn.QueryRowContext(context.Background(), selectFollowed, t.Account))
	if errors.Is(err, sql.ErrNoRows) {
		last = followed{currency: t.Currency}
		// Not exec: no grant or route tells of accounts, so what caches hold stays true.
		_, err = w.write("INSERT INTO accounts (id, name, currency, created_at) VALUES (?, ?, ?, ?)",
			t.Account, t.Account, t.Currency, store.FormatTime(w.clock()))
	}
	switch {
	case err != nil:
		return err
	case last.currency != t.Currency:
		return store.ErrConflict
	case last.version >= t.Version:
		return nil
	}
	if err := w.moveTotal(t, last.total); err != nil {
		return err
	}
	_, err = w.write("UPDATE accounts SET core_total = ?, core_version = ? WHERE id = ?", t.Credited, t.Version, t.Account)
	return err
}

// moveTotal credits a wallet with what a total differs from the last one.
func (w *writer) moveTotal(t store.Total, last pricing.Micros) error {
	wl, err := w.walletOfEntry(t.Account)
	if err != nil {
		return err
	}
	w.touch(wl) // also where nothing is credited: the account may be new, and not come to be
	difference := t.Credited - last
	if (t.Credited < last) != (difference < 0) {
		return pricing.ErrOverflow
	}
	if difference == 0 {
		return nil
	}
	available, err := wl.Available.Add(difference)
	if err != nil {
		return err
	}
	credited, err := wl.credited.Add(difference)
	if err != nil {
		return err
	}
	e := store.Entry{ID: t.TotalID(), Kind: store.KindCredit, Amount: difference, Balance: available, At: w.clock()}
	fresh, err := w.enter(e, wl)
	if err == nil && !fresh {
		err = errors.New("a total that was not followed is in the ledger") // by a hand that knows better
	}
	if err != nil {
		return err
	}
	wl.credited, wl.Available = credited, available
	return nil
}

// Unreported implements [store.Follower]. It never returns [store.ErrBusy].
//
// The ledger grows at its end alone, by one writer: what is at or before the
// newest entry that is seen is all there. Holds and releases need not be
// reported; where there are many, it notes that it has passed over them.
func (s *Store) Unreported(ctx context.Context, most int) (store.Report, error) {
	newest, err := s.enterTail(ctx, (*writer).enterSettled) // a hold alone is not reported
	if err != nil {
		return store.Report{}, err
	}
	var reported int64
	err = s.reading.QueryRowContext(ctx, "SELECT ifnull((SELECT value FROM settings WHERE name = 'ledger_reported'), 0)").Scan(&reported)
	if err != nil {
		return store.Report{}, s.readError(err)
	}
	var entries []store.ReportedEntry
	passed := reported
	for passed < newest && len(entries) < most {
		page, err := s.reportable(ctx, passed, min(passed+reportPage, newest), most-len(entries))
		if err != nil {
			return store.Report{}, s.readError(err)
		}
		entries = append(entries, page...)
		passed = min(passed+reportPage, newest)
	}
	if len(entries) > 0 && len(entries) == most {
		passed = entries[len(entries)-1].Seq
	}
	report := store.Report{Entries: entries, Cursor: strconv.FormatInt(passed, 10)}
	if len(entries) == 0 && passed-reported >= reportPage {
		err = s.Reported(ctx, report)
	}
	return report, err
}

// reportable returns the entries to be reported behind one seq and up to another.
func (s *Store) reportable(ctx context.Context, after, upTo int64, most int) ([]store.ReportedEntry, error) {
	rows, err := s.reading.QueryContext(ctx, `SELECT seq, id, account_id, kind, amount, balance, ifnull(message_id, ''), ifnull(app_id, ''), at
		FROM ledger WHERE seq > ? AND seq <= ? AND kind IN ('credit', 'capture', 'template_fee') ORDER BY seq LIMIT ?`, after, upTo, most)
	return collect(rows, err, func(scan func(...any) error) (e store.ReportedEntry, err error) {
		var at int64
		err = scan(&e.Seq, &e.ID, &e.Account, &e.Kind, &e.Amount, &e.Balance, &e.MessageID, &e.AppID, &at)
		e.At = time.UnixMicro(at).UTC()
		return e, err
	})
}

// Reported implements [store.Follower]. A report that comes late moves nothing
// back.
func (s *Store) Reported(ctx context.Context, r store.Report) error {
	seq, err := strconv.ParseInt(r.Cursor, 10, 64)
	if err != nil {
		return fmt.Errorf("the report is not this store's: cursor %q", r.Cursor)
	}
	return s.writer.do(ctx, &operation{apply: func(w *writer) error {
		if _, err := w.begin(); err != nil {
			return err
		}
		_, err := w.write(`INSERT INTO settings (name, value) VALUES ('ledger_reported', ?) ON CONFLICT (name) DO UPDATE
			SET value = excluded.value WHERE CAST(excluded.value AS INTEGER) > CAST(value AS INTEGER)`, strconv.FormatInt(seq, 10))
		return err
	}})
}

// Interface guard
var _ store.Follower = (*Store)(nil)
