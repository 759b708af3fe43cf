-- The newest part of the ledger, packed: what a gateway has committed and not yet
-- entered in the tables above, which it does many at a time and within a moment.
-- Until then the wallets' columns, holds and ledger do not have it. The format is
-- that of tail_record.go.
CREATE TABLE ledger_tail (
	seq     INTEGER PRIMARY KEY,
	records BLOB NOT NULL
) STRICT;

-- A capture or release whose hold is no row of its own has it in these columns: the
-- hold's id is the same but for the word before the underscore.
ALTER TABLE ledger ADD COLUMN held_seq INTEGER;
ALTER TABLE ledger ADD COLUMN held_balance INTEGER;
ALTER TABLE ledger ADD COLUMN held_at INTEGER;
