-- Where an app's events go: {"url":…,"secret":…,"events":[…],"headers":{…},"disabled_at":…}.
ALTER TABLE apps ADD COLUMN webhook TEXT;
CREATE INDEX apps_phone_number_id ON apps (phone_number_id) WHERE phone_number_id IS NOT NULL;
CREATE INDEX apps_waba_id ON apps (waba_id) WHERE waba_id IS NOT NULL;

-- The ledger has a fifth kind: template_fee. A status finds its message by the
-- id of the hold that it returns, or else by this.
CREATE INDEX ledger_message ON ledger (message_id) WHERE kind = 'capture' AND message_id IS NOT NULL;

-- Events to deliver, dead letters, and what is quarantined (app_id is NULL). What
-- was delivered is gone. due_at: of a pending event, when the next attempt is due;
-- of a dead letter, when it was given up; otherwise received_at.
CREATE TABLE outbox (
	seq         INTEGER PRIMARY KEY,
	id          TEXT NOT NULL UNIQUE,
	app_id      TEXT,
	event       TEXT NOT NULL,
	state       TEXT NOT NULL CHECK (state IN ('pending', 'dead', 'quarantined')),
	attempts    INTEGER NOT NULL DEFAULT 0,
	received_at INTEGER NOT NULL,
	due_at      INTEGER NOT NULL,
	last_error  TEXT,
	payload     BLOB NOT NULL -- last, so that a list need not read it
) STRICT;
CREATE INDEX outbox_pending ON outbox (app_id, due_at) WHERE state = 'pending';
CREATE INDEX outbox_dead ON outbox (app_id) WHERE state = 'dead';
CREATE INDEX outbox_given_up ON outbox (due_at) WHERE state = 'dead';
CREATE INDEX outbox_quarantined ON outbox (received_at) WHERE state = 'quarantined';
