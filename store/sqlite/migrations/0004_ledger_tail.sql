-- The newest part of the ledger, packed: what a gateway has committed and not yet
-- entered in the tables above, which it does many at a time and within a moment.
-- Until then the wallets' columns, holds and ledger do not have it. The format is
-- that of record.go.
CREATE TABLE ledger_tail (
	seq     INTEGER PRIMARY KEY,
	records BLOB NOT NULL
) STRICT;

-- A capture or release whose hold is no row of its own has it in these columns: the
-- hold's id is the same but for the word before the underscore.
ALTER TABLE ledger ADD COLUMN held_seq INTEGER;
ALTER TABLE ledger ADD COLUMN held_balance INTEGER;
ALTER TABLE ledger ADD COLUMN held_at INTEGER;

-- The ledger as it reads: every entry on its own.
CREATE VIEW entries AS
SELECT seq, id, account_id, kind, amount, balance, app_id, message_id, at FROM ledger
UNION ALL
SELECT held_seq, 'hold' || substr(id, instr(id, '_')), account_id, 'hold', amount, held_balance, app_id, NULL, held_at
FROM ledger WHERE held_seq IS NOT NULL;

-- The captures by Meta's message id, for statuses that do not return the id of a hold:
-- key is a hash of the message id (message_index.go). The ids come in no order, so that
-- this is written for many thousands of sends at a time, in the order of their keys. The
-- setting messages_indexed is the seq up to which all are here.
DROP INDEX ledger_message;
CREATE TABLE messages (
	key INTEGER NOT NULL,
	seq INTEGER NOT NULL,
	PRIMARY KEY (key, seq)
) STRICT, WITHOUT ROWID;
