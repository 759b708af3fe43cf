package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/connexease/caddy-whatsapp-gateway/store"
	"github.com/connexease/caddy-whatsapp-gateway/tenant"
)

// changeError is what the caller's function in UpdateApp returned.
type changeError struct{ error }

func (e changeError) Unwrap() error { return e.error }

// appColumns are what scanApp reads.
const appColumns = `a.id, a.name, ifnull(a.account_id, ''), a.per_second, a.per_minute,
	ifnull(a.waba_id, ''), ifnull(a.phone_number_id, ''), ifnull(a.access_token, ''), a.webhook, a.created_at`

// Grant implements [store.Store].
func (s *Store) Grant(ctx context.Context, digest tenant.KeyDigest) (*tenant.Grant, error) {
	if err := s.keys.ask(ctx, digest); err != nil {
		return nil, s.readError(err)
	}
	g := new(tenant.Grant)
	var expires sql.NullString
	var revoked bool
	row := s.reads.selectGrant.QueryRowContext(ctx, digest[:])
	app, err := scanApp(func(columns ...any) error {
		return row.Scan(append([]any{&g.KeyID, &expires, &revoked}, columns...)...)
	})
	if err != nil {
		return nil, s.readError(err)
	}
	if revoked {
		return nil, store.ErrRevoked
	}
	g.App = app
	if expires.Valid {
		at, err := store.ParseTime(expires.String)
		if err != nil {
			return nil, err
		}
		if at.IsZero() {
			return nil, fmt.Errorf("%w: expires_at is empty", store.ErrCorrupt)
		}
		g.ExpiresAt = &at
	}
	return g, nil
}

// Generation implements [store.Store].
func (s *Store) Generation() uint64 { return s.writer.generation.Load() }

// Watched is when it was last looked whether another process has written: whatever any
// had changed in the directory by then has grown the Generation.
func (s *Store) Watched() time.Time { return *s.writer.watched.Load() }

// BindPepper implements [store.Store].
func (s *Store) BindPepper(ctx context.Context, fingerprint string) error {
	const name = "pepper_fingerprint"
	return s.writer.do(ctx, &operation{apply: func(w *writer) error {
		if _, err := w.begin(); err != nil {
			return err
		}
		if _, err := w.exec("INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING", name, fingerprint); err != nil {
			return err
		}
		var bound string
		if err := w.conn.QueryRowContext(context.Background(), "SELECT value FROM settings WHERE name = ?", name).Scan(&bound); err != nil {
			return err
		}
		if bound != fingerprint {
			return store.ErrPepper
		}
		return nil
	}})
}

// CreateAccount implements [store.Store].
func (s *Store) CreateAccount(ctx context.Context, a tenant.Account) error {
	return s.insert(ctx, nil, "INSERT INTO accounts (id, name, currency, created_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
		a.ID, a.Name, a.Currency, store.FormatTime(a.CreatedAt))
}

// Account implements [store.Store].
func (s *Store) Account(ctx context.Context, id tenant.AccountID) (tenant.Account, error) {
	a, err := scanAccount(s.reading.QueryRowContext(ctx, "SELECT id, name, currency, created_at FROM accounts WHERE id = ?", id).Scan)
	return a, s.readError(err)
}

// Accounts implements [store.Store].
func (s *Store) Accounts(ctx context.Context) ([]tenant.Account, error) {
	rows, err := s.reading.QueryContext(ctx, "SELECT id, name, currency, created_at FROM accounts ORDER BY rowid")
	return collect(rows, s.readError(err), scanAccount)
}

// CreateApp implements [store.Store].
func (s *Store) CreateApp(ctx context.Context, a tenant.App) error {
	return s.insert(ctx, func(w *writer) error { return w.accountExists(a.AccountID) },
		`INSERT INTO apps (id, name, account_id, per_second, per_minute, waba_id, phone_number_id, access_token, webhook, created_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`, append([]any{a.ID}, append(appValues(a), store.FormatTime(a.CreatedAt))...)...)
}

// UpdateApp implements [store.Store].
func (s *Store) UpdateApp(ctx context.Context, id tenant.AppID, change func(*tenant.App) error) (tenant.App, error) {
	var app tenant.App
	err := s.writer.do(ctx, &operation{apply: func(w *writer) (err error) {
		if _, err := w.begin(); err != nil {
			return err
		}
		app, err = scanApp(w.conn.QueryRowContext(context.Background(), "SELECT "+appColumns+" FROM apps a WHERE a.id = ?", id).Scan)
		if err != nil {
			return s.readError(err)
		}
		created := app.CreatedAt
		if err := change(&app); err != nil {
			return changeError{err}
		}
		app.ID, app.CreatedAt = id, created // neither is the caller's to change
		if err := w.accountExists(app.AccountID); err != nil {
			return err
		}
		_, err = w.exec(`UPDATE apps SET name = ?, account_id = ?, per_second = ?, per_minute = ?,
			waba_id = ?, phone_number_id = ?, access_token = ?, webhook = ? WHERE id = ?`, append(appValues(app), id)...)
		return err
	}})
	if refused := (changeError{}); errors.As(err, &refused) {
		err = refused.error
	}
	if err != nil { // the writer may still be at it
		return tenant.App{}, err
	}
	return app, nil
}

// App implements [store.Store].
func (s *Store) App(ctx context.Context, id tenant.AppID) (tenant.App, error) {
	a, err := scanApp(s.reading.QueryRowContext(ctx, "SELECT "+appColumns+" FROM apps a WHERE a.id = ?", id).Scan)
	return a, s.readError(err)
}

// Apps implements [store.Store].
func (s *Store) Apps(ctx context.Context) ([]tenant.App, error) {
	rows, err := s.reading.QueryContext(ctx, "SELECT "+appColumns+" FROM apps a ORDER BY a.rowid")
	return collect(rows, s.readError(err), scanApp)
}

// AppsWithNumber implements [store.Store].
func (s *Store) AppsWithNumber(ctx context.Context, phoneNumberID string) ([]tenant.App, error) {
	return s.appsWhere(ctx, "a.phone_number_id = ?", phoneNumberID)
}

// AppsOfWABA implements [store.Store].
func (s *Store) AppsOfWABA(ctx context.Context, wabaID string) ([]tenant.App, error) {
	return s.appsWhere(ctx, "a.waba_id = ?", wabaID)
}

func (s *Store) appsWhere(ctx context.Context, condition, value string) ([]tenant.App, error) {
	rows, err := s.reading.QueryContext(ctx, "SELECT "+appColumns+" FROM apps a WHERE "+condition+" ORDER BY a.rowid", value)
	return collect(rows, s.readError(err), scanApp)
}

// CreateKey implements [store.Store].
func (s *Store) CreateKey(ctx context.Context, k tenant.APIKey) error {
	return s.insert(ctx, func(w *writer) error { return w.exists("SELECT 1 FROM apps WHERE id = ?", k.AppID) },
		`INSERT INTO api_keys (id, app_id, name, digest, hint, created_at, expires_at, revoked_at)
		VALUES (?, ?, ?, ?, ?, ?, nullif(?, ''), nullif(?, '')) ON CONFLICT DO NOTHING`,
		k.ID, k.AppID, k.Name, k.Digest[:], k.Hint, store.FormatTime(k.CreatedAt), store.FormatTime(k.ExpiresAt), store.FormatTime(k.RevokedAt))
}

// Keys implements [store.Store].
func (s *Store) Keys(ctx context.Context, app tenant.AppID) ([]tenant.APIKey, error) {
	if _, err := s.App(ctx, app); err != nil {
		return nil, err
	}
	rows, err := s.reading.QueryContext(ctx, `SELECT id, app_id, name, digest, hint, created_at, ifnull(expires_at, ''), ifnull(revoked_at, '')
		FROM api_keys WHERE app_id = ? ORDER BY rowid`, app)
	return collect(rows, s.readError(err), scanKey)
}

// RevokeKey implements [store.Store].
func (s *Store) RevokeKey(ctx context.Context, id tenant.KeyID, at time.Time) error {
	return s.writer.do(ctx, &operation{apply: func(w *writer) error {
		if _, err := w.begin(); err != nil {
			return err
		}
		if err := w.exists("SELECT 1 FROM api_keys WHERE id = ?", id); err != nil {
			return err
		}
		_, err := w.exec("UPDATE api_keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL", store.FormatTime(at), id)
		return err
	}})
}

// insert adds a record if check allows it; one that is there already is
// [store.ErrExists].
func (s *Store) insert(ctx context.Context, check func(*writer) error, query string, values ...any) error {
	return s.writer.do(ctx, &operation{apply: func(w *writer) error {
		if _, err := w.begin(); err != nil {
			return err
		}
		if check != nil {
			if err := check(w); err != nil {
				return err
			}
		}
		n, err := w.exec(query, values...)
		if err == nil && n == 0 {
			err = store.ErrExists
		}
		return err
	}})
}

// exec writes to the directory and so makes what caches hold out of date.
func (w *writer) exec(query string, values ...any) (int64, error) {
	result, err := w.conn.ExecContext(context.Background(), query, values...)
	if err != nil {
		return 0, err
	}
	n, err := result.RowsAffected()
	w.stale = w.stale || n > 0
	return n, err
}

// exists returns [store.ErrNotFound] where the query has no row.
func (w *writer) exists(query string, id any) error {
	var one int
	err := w.conn.QueryRowContext(context.Background(), query, id).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return store.ErrNotFound
	}
	return err
}

// accountExists allows an app to have no account.
func (w *writer) accountExists(id tenant.AccountID) error {
	if id == "" {
		return nil
	}
	return w.exists("SELECT 1 FROM accounts WHERE id = ?", id)
}

func scanAccount(scan func(...any) error) (a tenant.Account, err error) {
	var created string
	if err := scan(&a.ID, &a.Name, &a.Currency, &created); err != nil {
		return a, err
	}
	a.CreatedAt, err = store.ParseTime(created)
	return a, err
}

func scanApp(scan func(...any) error) (a tenant.App, err error) {
	var perSecond, perMinute sql.NullInt64
	var webhook []byte
	var created string
	err = scan(&a.ID, &a.Name, &a.AccountID, &perSecond, &perMinute, &a.WABAID, &a.PhoneNumberID, &a.AccessToken, &webhook, &created)
	if err != nil {
		return a, err
	}
	if perSecond.Valid || perMinute.Valid {
		a.RateLimit = &tenant.RateLimit{PerSecond: int(perSecond.Int64), PerMinute: int(perMinute.Int64)}
		if err := a.RateLimit.Validate(); err != nil {
			return a, fmt.Errorf("%w: %w", store.ErrCorrupt, err)
		}
	}
	if webhook != nil {
		if err := json.Unmarshal(webhook, &a.Webhook); err != nil {
			return a, fmt.Errorf("%w: webhook is not what it should be", store.ErrCorrupt) // the cause repeats parts of it
		}
	}
	a.CreatedAt, err = store.ParseTime(created)
	return a, err
}

func scanKey(scan func(...any) error) (k tenant.APIKey, err error) {
	var digest []byte
	var created, expires, revoked string
	if err := scan(&k.ID, &k.AppID, &k.Name, &digest, &k.Hint, &created, &expires, &revoked); err != nil {
		return k, err
	}
	if copy(k.Digest[:], digest) != len(k.Digest) {
		return k, fmt.Errorf("%w: digest of %d bytes", store.ErrCorrupt, len(digest))
	}
	var errs [3]error
	k.CreatedAt, errs[0] = store.ParseTime(created)
	k.ExpiresAt, errs[1] = store.ParseTime(expires)
	k.RevokedAt, errs[2] = store.ParseTime(revoked)
	return k, errors.Join(errs[:]...)
}

// appValues are the columns that appear in both INSERT and UPDATE, in order.
func appValues(a tenant.App) []any {
	var perSecond, perMinute any
	if a.RateLimit != nil {
		perSecond, perMinute = a.RateLimit.PerSecond, a.RateLimit.PerMinute
	}
	var webhook any
	if a.Webhook != nil {
		document, err := json.Marshal(a.Webhook)
		if err != nil {
			panic(err) // it is made of texts and a time
		}
		webhook = string(document)
	}
	return []any{
		a.Name, null(a.AccountID), perSecond, perMinute, null(a.WABAID), null(a.PhoneNumberID), null(a.AccessToken), webhook,
	}
}

// null is NULL for an empty string.
func null[S ~string](s S) any {
	if s == "" {
		return nil
	}
	return string(s)
}

// collect reads all rows, or passes on the error that came instead of them.
func collect[T any](rows *sql.Rows, err error, scan func(func(...any) error) (T, error)) ([]T, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		one, err := scan(rows.Scan)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, rows.Err()
}

// readError turns SQLite's errors of reading into the store's.
func (s *Store) readError(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return store.ErrNotFound
	}
	select {
	case <-s.writer.closing:
		if err != nil {
			return store.ErrClosed
		}
	default:
	}
	return err
}
