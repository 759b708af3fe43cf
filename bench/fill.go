package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"time"

	_ "modernc.org/sqlite" // the driver

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/store/sqlite"
)

// fill writes keys that nobody uses and the ledger of sends long ago straight into the
// database, for the app with this phone number id. Nobody else has the database open.
func fill(ctx context.Context, database, phone string, keys, entries int) (err error) {
	// The gateway sets its own when it opens the database.
	pragmas := url.Values{"_pragma": {"journal_mode(off)", "synchronous(off)", "cache_size(-1048576)", "temp_store(memory)"}}
	db, err := sql.Open("sqlite", "file:"+database+"?"+pragmas.Encode())
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	defer func() { err = errors.Join(err, db.Close()) }()
	var app, account string
	var available int64
	err = db.QueryRowContext(ctx, `SELECT p.id, c.id, c.available FROM apps p JOIN accounts c ON c.id = p.account_id WHERE p.phone_number_id = ?`, phone).
		Scan(&app, &account, &available)
	if err != nil {
		return err
	}
	if _, err := db.ExecContext(ctx, fillKeys, keys, app, store.FormatTime(time.Now())); err != nil {
		return fmt.Errorf("keys: %w", err)
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // does nothing once it is committed
	begin := time.Now().Add(-30 * 24 * time.Hour)
	if _, err := tx.ExecContext(ctx, fillLedger, entries, account, app, baseFee, available, begin.UnixMicro()); err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	charged := int64(entries/2) * int64(baseFee)
	if _, err := tx.ExecContext(ctx, "UPDATE accounts SET available = available - ?, captured = captured + ? WHERE id = ?", charged, charged, account); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	// Which indexes the messages, as a gateway would have by and by.
	gateway, err := sqlite.Open(ctx, database, sqlite.Options{Exclusive: true})
	if err != nil {
		return err
	}
	return gateway.Close()
}

// Ids have the form of the real ones and grow as those do: 26 digits behind the word.
// The number of a past send is in those of its hold, its capture and its message.
const (
	numbers  = `WITH RECURSIVE number(i) AS (SELECT 1 WHERE ?1 > 0 UNION ALL SELECT i + 1 FROM number WHERE i < ?1) `
	fillKeys = numbers + `INSERT INTO api_keys (id, app_id, name, digest, hint, created_at)
		SELECT printf('key_%026x', i), ?2, '', randomblob(32), 'pk_000…', ?3 FROM number`
	fillLedger = numbers + `INSERT INTO ledger (id, account_id, kind, amount, balance, app_id, message_id, at)
		SELECT iif(i % 2, 'hold_', 'capture_') || printf('%026x', (i + 1) / 2), ?2, iif(i % 2, 'hold', 'capture'), ?4, ?5 - ?4 * ((i + 1) / 2), ?3,
			iif(i % 2, NULL, printf('wamid.HBgLMTIwMjU1NTAxMDAVAgARGBI%020x', (i + 1) / 2)), ?6 + i * 100 FROM number`
)

// pastHold and pastMessage are the ids of a past send that fill has written, from 1 on.
func pastHold(n int) string    { return fmt.Sprintf("hold_%026x", n) }
func pastMessage(n int) string { return fmt.Sprintf("wamid.HBgLMTIwMjU1NTAxMDAVAgARGBI%020x", n) }
