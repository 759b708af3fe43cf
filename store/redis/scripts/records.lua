-- What lies in a place about holds and messages. Many share a key, for a key costs more than all that is
-- written in it, and a key with a lifetime most of all. A hold that is open is in one hash, behind the time
-- when it was made; what it was settled as, and its message, are in the hash of the period in which it was made. Those
-- go as a whole, and which ones they are is told by the hold's id, which begins with
-- the time. Their first field, without a name, says that they have been begun and will go.
--
-- MESSAGE stands before the ids of messages, so that none of them is that of a hold.
local MESSAGE = '@'

-- A record is account, app and amount, each behind its length: a hold's fee, or the template fee of a message,
-- which is nothing until it is charged. Of a settled hold it stands behind a letter: c captured, r
-- released, a released and then captured again; f, without a record, is forsaken.
local RECORD = '>I4c0I4c0I4c0'
local MADE = 7 -- bytes before the record of an open hold

-- MONEY is what an account has in one field, because every send reads and writes it: available, held, captured, and
-- the time that the ledger's newest entry is numbered with.
local MONEY = '^(%S+) (%S+) (%S+) (%S+)$'

-- LIFETIME is for how long settled holds and messages are remembered, in seconds: a message
-- can be delivered for 30 days and its status be repeated for 7.
local LIFETIME = 38 * 24 * 3600
-- DAYS is for how long holds are made whose ids have the same first four digits: 2^28 ms, in microseconds. Messages
-- are looked for in PERIODS of these days, the newest included.
local DAYS, PERIODS = 2 ^ 28 * 1000, 14
local newest_period = math.floor(real / DAYS)

-- period_of is that of a hold by the first four digits of its id; 0 for one that tells of no time.
local function period_of(first)
	return tonumber(first, 32) or 0
end

-- past is the hash of a period in a place.
local function past(base, period)
	return base .. 'past:' .. string.format('%d', period)
end

-- is_recent tells whether messages are looked for in a period.
local function is_recent(period)
	return period <= newest_period + 1 and period > newest_period - PERIODS
end

-- free is the first microsecond that no entry of a ledger has which this run of a script has made: they have different
-- ones, whoever's they are.
local free = real
