-- With a Core Service, a wallet follows the totals that it names: core_total is the
-- last one, of version core_version; 0 and 0 is none yet.
ALTER TABLE accounts ADD COLUMN core_total INTEGER NOT NULL DEFAULT 0;
ALTER TABLE accounts ADD COLUMN core_version INTEGER NOT NULL DEFAULT 0;

-- And the setting ledger_reported is the seq up to which the ledger is reported
-- there; without it, that is 0.
