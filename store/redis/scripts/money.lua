-- An account's money. A script reads all that it needs first and makes sure that
-- every key that it writes to holds what it should (see sound), then writes: nothing
-- can fail from there on, for Redis does not take back what a script has written.

-- split cuts a number of up to 19 digits in two that Lua can count with.
local function split(s)
	local sign = 1
	if string.sub(s, 1, 1) == '-' then
		sign, s = -1, string.sub(s, 2)
	end
	if #s <= 10 then
		return 0, sign * tonumber(s)
	end
	return sign * tonumber(string.sub(s, 1, -11)), sign * tonumber(string.sub(s, -10))
end

-- add adds two numbers; nil where the sum is none of 64 bits.
local function add(a, b)
	if #a < 16 and #b < 16 then
		return digits(tonumber(a) + tonumber(b))
	end
	local h1, l1 = split(a)
	local h2, l2 = split(b)
	local h, l = h1 + h2, l1 + l2
	if l >= 1e10 or h < 0 and l > 0 then
		h, l = h + 1, l - 1e10
	elseif l <= -1e10 or h > 0 and l < 0 then
		h, l = h - 1, l + 1e10
	end
	if h < 0 and l > 0 then
		h, l = h + 1, l - 1e10
	elseif h > 0 and l < 0 then
		h, l = h - 1, l + 1e10
	end
	if h > 922337203 or h == 922337203 and l > 6854775807 or h < -922337203 or h == -922337203 and l < -6854775808 then
		return nil
	end
	if h == 0 then
		return digits(l)
	end
	return digits(h) .. string.format('%010.0f', math.abs(l))
end

local function minus(a)
	if a == '0' then
		return a
	end
	return string.sub(a, 1, 1) == '-' and string.sub(a, 2) or '-' .. a
end

-- wallets are those that the script has read, by account.
local wallets = {}

-- wallet returns an account's money, or false.
local function wallet(account)
	local w = wallets[account]
	if w == nil then
		local f = redis.call('HMGET', base .. 'wallet:' .. account, 'currency', 'money', 'credited')
		if f[1] and f[2] then
			w = { account = account, currency = f[1], credited = f[3] or '0' }
			w.available, w.held, w.captured, w.seq = string.match(f[2], MONEY)
			w.seq = tonumber(w.seq)
		else
			w = false
		end
		wallets[account] = w
	end
	return w
end

-- must is a wallet that the place's own records name.
local function must(account)
	return wallet(account) or error('the wallet of a hold is missing')
end

-- settled_in is the period of the hash that a hold comes to be settled in.
local function settled_in(id)
	return period_of(string.sub(id, 6, 9))
end

-- named_in is that of the hash that its message comes to be in. One whose id tells of no time at which messages are
-- looked for is taken to be of now.
local function named_in(id)
	local period = settled_in(id)
	return is_recent(period) and period or newest_period
end

-- begin begins the hash of a period, unless it is there. That of days to come, by the clock of a gateway that is ahead, lasts as
-- much longer; an id that is more than a year ahead tells of no time. Those that are past are freed then, in the background: by
-- themselves they would go a little later, and Redis would stand still. One that was begun late, by a gateway whose clock is
-- behind or for a hold that was open for long, is left its time.
local function begin(period)
	if redis.call('HEXISTS', past(base, period), '') == 1 then
		return
	end
	local ahead = (period * DAYS - real) / 1e6
	if ahead < 0 or ahead > 366 * 24 * 3600 then
		ahead = 0
	end
	redis.call('HSET', past(base, period), '', '1')
	redis.call('EXPIRE', past(base, period), string.format('%d', LIFETIME + 4 * DAYS / 1e6 + ahead))
	for old = newest_period + 1 - 2 * PERIODS, newest_period - PERIODS do
		if redis.call('TTL', past(base, old)) < 4 * DAYS / 1e6 then
			redis.call('UNLINK', past(base, old))
		end
	end
end

local function put(period, field, value)
	begin(period)
	redis.call('HSET', past(base, period), field, value)
end

-- message_of returns what is known of a message: its record, which may have no account, or no amount, and
-- the period that it is in. The amount, of its template fee, may be in another one.
local function message_of(message)
	local record, at, charged
	for period = newest_period + 1, newest_period - PERIODS + 1, -1 do
		local value = redis.call('HGET', past(base, period), MESSAGE .. message)
		if value then
			local account, app, amount = struct.unpack(RECORD, value)
			charged = charged or amount ~= ''
			if not record or record.account == '' then
				record, at = { account = account, app = app, amount = amount }, period
			end
			if charged and record.account ~= '' then
				break
			end
		end
	end
	return record, at, charged
end

local function pack(account, app, amount)
	return struct.pack(RECORD, #account, account, #app, app, #amount, amount)
end

-- sound fails where one of the keys that a step writes to holds another type. settled and named are the periods of
-- the hold and the message that it writes about, or nil.
local function sound(account, settled, named)
	redis.call('XLEN', base .. 'ledger:' .. account)
	redis.call('SCARD', base .. 'unreported')
	redis.call('HLEN', base .. 'open')
	if settled then
		redis.call('HLEN', past(base, settled))
	end
	if named then
		redis.call('HLEN', past(base, named))
	end
end

-- last is the time of an account's newest entry, whether it is there yet or was trimmed.
local function last(ledger)
	local f = redis.call('XINFO', 'STREAM', ledger)
	for i = 1, #f, 2 do
		if f[i] == 'last-generated-id' then
			return tonumber(string.match(f[i + 1], '^%d+'))
		end
	end
end

-- KINDS are the letters of the ledger's entries.
local KINDS = { hold = 'h', capture = 'c', release = 'r', credit = 'd', template_fee = 't' }

-- enter writes an entry of the ledger, when what was available before is still in the wallet. Its id in the
-- stream is the time, or the next microsecond that is free. (t is the time by the clock of a test.)
local function enter(w, kind, id, amount, message, app)
	local ledger = base .. 'ledger:' .. w.account
	w.seq = math.max(w.seq + 1, free)
	if redis.call('EXISTS', ledger) == 1 then
		w.seq = math.max(w.seq, last(ledger) + 1)
	end
	if w.seq == free then -- one that is ahead of the clock moves no other
		free = free + 1
	end
	local item = KINDS[kind] .. struct.pack('>I4c0I4c0I4c0I4c0', #app, app, #amount, amount, #id, id, #message, message)
	if ARGV[1] == '' then
		redis.call('XADD', ledger, digits(w.seq) .. '-0', 'b', w.available, 'e', item)
	else
		redis.call('XADD', ledger, digits(w.seq) .. '-0', 'b', w.available, 'e', item, 't', ARGV[1])
	end
	if kind ~= 'hold' and kind ~= 'release' then
		redis.call('SADD', base .. 'unreported', w.account)
	end
end

local function save(w)
	local money = table.concat({ w.available, w.held, w.captured, digits(w.seq) }, ' ')
	redis.call('HSET', base .. 'wallet:' .. w.account, 'money', money, 'credited', w.credited)
end

-- charge charges a message's template fee, which was not charged before, at one of
-- these prices. It returns the fee's result. The record is that of the message, if it has one, and period where it is
-- or comes to be.
local function charge(w, app, message, prices, record, period)
	local price = prices[w.currency]
	if not price then
		return 'not_priced'
	end
	local available, captured = add(w.available, minus(price)), add(w.captured, price)
	if not available or not captured then
		return 'not_priced'
	end
	sound(w.account, nil, period)
	enter(w, 'template_fee', '', price, message, app)
	w.available, w.captured = available, captured
	save(w)
	put(period, MESSAGE .. message, pack(record and record.account or '', record and record.app or '', price))
	return 'charged'
end

-- early_of returns the fee that came before the capture of a message, in all its currencies, or nothing.
local function early_of(message)
	local prices = message ~= '' and redis.call('GET', base .. 'early:' .. message)
	return prices and cjson.decode(prices)
end

-- readable fails where what is known of a message cannot be read, which named does when it is too late to fail.
local function readable(message)
	if message ~= '' then
		early_of(message)
		message_of(message)
	end
end

-- named notes whose a message is that a hold was captured for, and charges the fee that came before it.
local function named(hold, w, app, message)
	if message == '' then
		return
	end
	local prices = early_of(message)
	local record, period, charged = message_of(message)
	if not record or record.account == '' then
		period = period or named_in(hold)
		record = { account = w.account, app = app, amount = record and record.amount or '' }
		put(period, MESSAGE .. message, pack(record.account, app, record.amount))
	end
	if prices and not charged and charge(w, app, message, prices, record, period) == 'charged' then
		redis.call('DEL', base .. 'early:' .. message)
	end
end

-- hold_of returns what a hold is: the letter of its state, o for an open one, and its account, app and fee; nil where there is no such hold, or none
-- of which more is known than that it was forsaken.
local function hold_of(id)
	local value, letter = redis.call('HGET', base .. 'open', id), 'o'
	if value then
		value = string.sub(value, MADE + 1)
	else
		value = redis.call('HGET', past(base, settled_in(id)), id)
		if not value or value == 'f' then
			return nil, value
		end
		letter, value = string.sub(value, 1, 1), string.sub(value, 2)
	end
	local account, app, fee = struct.unpack(RECORD, value)
	return { state = letter, account = account, app = app, fee = fee }
end

-- make_hold moves a fee from available to held, and tells whether it fits.
local function make_hold(w, id, fee, app)
	local available, held = add(w.available, minus(fee)), add(w.held, fee)
	if not available or not held then
		return false
	end
	sound(w.account, settled_in(id), named_in(id))
	begin(settled_in(id))
	enter(w, 'hold', id, fee, '', app)
	w.available, w.held = available, held
	save(w)
	redis.call('HSET', base .. 'open', id, struct.pack('>I7', now) .. pack(w.account, app, fee))
	return true
end

local NO_FIT = 'ERR a wallet would not fit'

-- settle ends a hold: outcome is 'capture' or 'release'. It returns 'settled', 'same' where
-- it had that outcome, 'conflict' where it had the other one, and 'unknown'.
local function settle(id, outcome, message)
	local h = hold_of(id)
	if not h then
		return 'unknown'
	end
	local letter = outcome == 'capture' and 'c' or 'r'
	if h.state ~= 'o' then
		return (h.state == letter or h.state == 'a' and letter == 'r') and 'same' or 'conflict'
	end
	local w, app, fee = must(h.account), h.app, h.fee
	local held, to = add(w.held, minus(fee)), outcome == 'capture' and 'captured' or 'available'
	local sum = add(w[to], fee)
	if not held or not sum then
		return redis.error_reply(NO_FIT)
	end
	sound(h.account, settled_in(id), message ~= '' and named_in(id) or nil)
	readable(message)
	enter(w, outcome, id, fee, message, app)
	w.held, w[to] = held, sum
	save(w)
	put(settled_in(id), id, letter .. pack(h.account, app, fee))
	redis.call('HDEL', base .. 'open', id)
	named(id, w, app, message)
	return 'settled'
end
