-- The newest part of the outbox, packed: what a gateway has received and neither
-- delivered nor entered in the table outbox, which it does many at a time and within a
-- moment. The format is that of arrivals.go.
CREATE TABLE outbox_recent (
	seq     INTEGER PRIMARY KEY,
	records BLOB NOT NULL
) STRICT;
