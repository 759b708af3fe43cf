-- Which entries of the ledger are an account's: seqs is a JSON array of some of them, in no
-- order. An index would have a page written for each account whenever something is entered;
-- this is written for many thousands of entries at a time. No row has all up to its upto, but
-- together with those before it does. The setting accounts_indexed is the upto of the last
-- whole batch: what comes later in the ledger is to be looked for there.
CREATE TABLE account_entries (
	account_id TEXT NOT NULL,
	upto       INTEGER NOT NULL,
	seqs       TEXT NOT NULL,
	PRIMARY KEY (account_id, upto)
) STRICT, WITHOUT ROWID;
DROP INDEX ledger_account;
