-- An account's money. A script reads all that it needs first and makes sure that
-- every key that it writes to holds what it should (see sound), then writes: nothing
-- can fail from there on, for Redis does not take back what a script has written.

-- LIFETIME is for how long settled holds and messages are remembered, in seconds: a message
-- can be delivered for 30 days and its status be repeated for 7.
local LIFETIME = 38 * 24 * 3600

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

-- wallet returns an account's money, or nil.
local function wallet(account)
	local w = wallets[account]
	if w == nil then
		local f = redis.call('HMGET', base .. 'wallet:' .. account, 'currency', 'available', 'held', 'captured', 'credited')
		w = f[1] and {
			account = account, currency = f[1], available = f[2] or '0', held = f[3] or '0', captured = f[4] or '0',
			credited = f[5] or '0', seq = 0, -- of its newest entry that this script has written
		}
		wallets[account] = w
	end
	return w
end

-- must is a wallet that the place's own records name.
local function must(account)
	return wallet(account) or error('the wallet of a hold is missing')
end

-- sound fails where one of the keys that a step writes to holds another type. The
-- hold and the message are those of the step, or nothing.
local function sound(account, hold, message)
	redis.call('XLEN', base .. 'ledger:' .. account)
	redis.call('SCARD', base .. 'unreported')
	redis.call('ZCARD', base .. 'open')
	if hold ~= '' then
		redis.call('HLEN', base .. 'hold:' .. hold)
	end
	if message ~= '' then
		redis.call('HLEN', base .. 'message:' .. message)
	end
end

local entered = 0

-- last is the time of an account's newest entry, whether it is there yet or was trimmed.
local function last(ledger)
	local f = redis.call('XINFO', 'STREAM', ledger)
	for i = 1, #f, 2 do
		if f[i] == 'last-generated-id' then
			return tonumber(string.match(f[i + 1], '^%d+'))
		end
	end
end

-- enter writes an entry of the ledger. Its id in the stream is the time, or the
-- next microsecond that is free. (t is the time by the clock of a test.)
local function enter(w, kind, id, amount, balance, message, app)
	local ledger = base .. 'ledger:' .. w.account
	w.seq = math.max(w.seq + 1, real + entered)
	entered = entered + 1
	if redis.call('EXISTS', ledger) == 1 then
		w.seq = math.max(w.seq, last(ledger) + 1)
	end
	if ARGV[1] == '' then
		redis.call('XADD', ledger, digits(w.seq) .. '-0', 'k', kind, 'o', id, 'a', amount, 'b', balance, 'm', message, 'p', app)
	else
		redis.call('XADD', ledger, digits(w.seq) .. '-0', 'k', kind, 'o', id, 'a', amount, 'b', balance, 'm', message, 'p', app, 't', ARGV[1])
	end
	if kind ~= 'hold' and kind ~= 'release' then
		redis.call('SADD', base .. 'unreported', w.account)
	end
end

local function save(w)
	redis.call('HSET', base .. 'wallet:' .. w.account, 'available', w.available, 'held', w.held, 'captured', w.captured,
		'credited', w.credited)
end

-- charge charges a message's template fee, which was not charged before, at one of
-- these prices. It returns the fee's result.
local function charge(w, app, message, prices)
	local price = prices[w.currency]
	if not price then
		return 'not_priced'
	end
	local available, captured = add(w.available, minus(price)), add(w.captured, price)
	if not available or not captured then
		return 'not_priced'
	end
	sound(w.account, '', message)
	enter(w, 'template_fee', '', price, available, message, app)
	w.available, w.captured = available, captured
	save(w)
	local key = base .. 'message:' .. message
	redis.call('HSET', key, 'fee', price)
	redis.call('HDEL', key, 'early')
	redis.call('EXPIRE', key, LIFETIME)
	return 'charged'
end

-- named notes whose a message is, and charges the fee that came before it.
local function named(w, app, message)
	if message == '' then
		return
	end
	local key = base .. 'message:' .. message
	local m = redis.call('HMGET', key, 'account', 'fee', 'early')
	if not m[1] then
		redis.call('HSET', key, 'account', w.account, 'app', app)
		redis.call('EXPIRE', key, LIFETIME)
	end
	if m[3] and not m[2] then
		charge(w, app, message, cjson.decode(m[3]))
	end
end

-- make_hold moves a fee from available to held, and tells whether it fits. The message is that of what
-- comes next, if it is known.
local function make_hold(w, id, fee, app, message)
	local available, held = add(w.available, minus(fee)), add(w.held, fee)
	if not available or not held then
		return false
	end
	sound(w.account, id, message)
	redis.call('ZADD', base .. 'open', digits(now), id)
	enter(w, 'hold', id, fee, available, '', app)
	w.available, w.held = available, held
	save(w)
	redis.call('HSET', base .. 'hold:' .. id, 'state', 'open', 'account', w.account, 'app', app, 'fee', fee)
	return true
end

local NO_FIT = 'ERR a wallet would not fit'

-- settle ends a hold: outcome is 'capture' or 'release'. It returns 'settled', 'same' where
-- it had that outcome, 'conflict' where it had the other one, and 'unknown'.
local function settle(id, outcome, message)
	local key = base .. 'hold:' .. id
	local h = redis.call('HMGET', key, 'state', 'account', 'app', 'fee')
	local state = h[1]
	if not state or state == 'forsaken' then
		return 'unknown'
	end
	if state ~= 'open' then
		return state == outcome and 'same' or 'conflict'
	end
	local w, app, fee = must(h[2]), h[3], h[4]
	local held, to = add(w.held, minus(fee)), outcome == 'capture' and 'captured' or 'available'
	local sum = add(w[to], fee)
	if not held or not sum then
		return redis.error_reply(NO_FIT)
	end
	sound(h[2], id, message)
	enter(w, outcome, id, fee, to == 'available' and sum or w.available, message, app)
	w.held, w[to] = held, sum
	save(w)
	redis.call('HSET', key, 'state', outcome)
	redis.call('EXPIRE', key, LIFETIME)
	redis.call('ZREM', base .. 'open', id)
	named(w, app, message)
	return 'settled'
end
