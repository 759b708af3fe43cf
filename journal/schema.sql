-- What waits. Times are microseconds since 1970 (UTC). retry_at is 0 for what has
-- not failed. Ids are never given again, so that what one process takes out late
-- is not what another has just put in.
CREATE TABLE records (
	id         INTEGER PRIMARY KEY AUTOINCREMENT,
	kind       TEXT NOT NULL,
	at         INTEGER NOT NULL,
	retry_at   INTEGER NOT NULL DEFAULT 0,
	attempts   INTEGER NOT NULL DEFAULT 0,
	last_error TEXT,
	body       BLOB NOT NULL -- last, so that nothing else need be looked for behind it
) STRICT;
CREATE INDEX records_due ON records (retry_at, id);

-- How many records there are, which would otherwise take longer the more there are.
CREATE TABLE counts (records INTEGER NOT NULL) STRICT;
INSERT INTO counts VALUES (0);
CREATE TRIGGER records_in AFTER INSERT ON records BEGIN UPDATE counts SET records = records + 1; END;
CREATE TRIGGER records_out AFTER DELETE ON records BEGIN UPDATE counts SET records = records - 1; END;
