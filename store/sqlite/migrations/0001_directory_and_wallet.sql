-- Amounts are micro-units of the account's currency, times of the wallet are
-- microseconds since 1970 (UTC), times of the directory are RFC 3339 text.

-- What this database is bound to: pepper_fingerprint.
CREATE TABLE settings (
	name  TEXT PRIMARY KEY,
	value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- An account and its wallet. The wallet's columns can be derived from the ledger.
CREATE TABLE accounts (
	id         TEXT PRIMARY KEY,
	name       TEXT NOT NULL,
	currency   TEXT NOT NULL,
	created_at TEXT NOT NULL,
	credited   INTEGER NOT NULL DEFAULT 0,
	available  INTEGER NOT NULL DEFAULT 0,
	held       INTEGER NOT NULL DEFAULT 0 CHECK (held >= 0),
	captured   INTEGER NOT NULL DEFAULT 0,
	CHECK (credited = available + held + captured)
) STRICT;

CREATE TABLE apps (
	id              TEXT PRIMARY KEY,
	name            TEXT NOT NULL,
	account_id      TEXT REFERENCES accounts (id),
	per_second      INTEGER,
	per_minute      INTEGER,
	waba_id         TEXT,
	phone_number_id TEXT,
	access_token    TEXT, -- sealed: v1.<key-id>.<payload>
	created_at      TEXT NOT NULL
) STRICT;

-- digest is HMAC-SHA256(pepper, key); the key itself is stored nowhere.
CREATE TABLE api_keys (
	id         TEXT PRIMARY KEY,
	app_id     TEXT NOT NULL REFERENCES apps (id),
	name       TEXT NOT NULL,
	digest     BLOB NOT NULL UNIQUE,
	hint       TEXT NOT NULL,
	created_at TEXT NOT NULL,
	expires_at TEXT,
	revoked_at TEXT
) STRICT;
CREATE INDEX api_keys_app ON api_keys (app_id);

-- Holds without an outcome: sends under way, and sends in doubt.
CREATE TABLE holds (
	id         TEXT PRIMARY KEY,
	account_id TEXT NOT NULL,
	app_id     TEXT NOT NULL,
	amount     INTEGER NOT NULL CHECK (amount >= 0),
	made_at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Every movement of money. kind: credit, hold, capture, release.
CREATE TABLE ledger (
	seq        INTEGER PRIMARY KEY,
	id         TEXT NOT NULL UNIQUE,
	account_id TEXT NOT NULL,
	kind       TEXT NOT NULL,
	amount     INTEGER NOT NULL,
	balance    INTEGER NOT NULL, -- available after this entry
	app_id     TEXT,
	message_id TEXT,
	at         INTEGER NOT NULL
) STRICT;
CREATE INDEX ledger_account ON ledger (account_id, seq);
CREATE TRIGGER ledger_is_append_only_update BEFORE UPDATE ON ledger
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER ledger_is_append_only_delete BEFORE DELETE ON ledger
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;

-- Admissions of the last minute that cost nothing and so are not in the
-- ledger: with it they give back the rate windows after a restart.
CREATE TABLE free_admissions (
	app_id TEXT NOT NULL,
	at     INTEGER NOT NULL
) STRICT;
