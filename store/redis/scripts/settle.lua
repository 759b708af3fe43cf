-- Captures or releases holds. The account, app and fee are given by the gateway that has
-- made the hold: where a failover has lost the hold, the capture brings it back. Every send
-- runs this, and so a wallet is read and written as in admit.lua.
local REQUEST = '>I1I4c0I4c0I4c0I4c0I4c0'
local KEPT = '3283200' -- LIFETIME in money.lua

-- The account whose wallet was read last, what is in it, whether that was changed since, and
-- whether it is known to be among the unreported ones.
local payer, available, held, captured, moved, told

local function leave_wallet()
	if moved then
		redis.call('HSET', base .. 'wallet:' .. payer, 'available', available, 'held', held, 'captured', captured)
	end
	payer, moved, told = nil, false, nil
end

-- closed is the command that takes the holds that were settled from the open ones, once there are some.
local closed

local function done()
	leave_wallet()
	if closed and #closed > 2 then
		redis.call(unpack(closed))
	end
end

-- one settles an open hold in the usual way; anything else has no answer.
local function one(request)
	local captures, id, message = struct.unpack(REQUEST, request)
	local hold, about = base .. 'hold:' .. id, base .. 'message:' .. message
	local h = redis.call('HMGET', hold, 'state', 'account', 'app', 'fee')
	local account, app, fee = h[2], h[3], h[4]
	if h[1] ~= 'open' or message ~= '' and redis.call('EXISTS', about) == 1 then
		return nil
	end
	if account ~= payer then
		leave_wallet()
		local f = redis.call('HMGET', base .. 'wallet:' .. account, 'available', 'held', 'captured')
		payer, available, held, captured = account, f[1], f[2], f[3]
	end
	if not available or not held or not captured or #available >= 15 or #held >= 15 or #captured >= 15 or #fee >= 15 then
		return nil
	end
	if not closed then
		redis.call('ZCARD', base .. 'open') -- it fails where that is something else
		closed = { 'ZREM', base .. 'open' }
	end
	local outcome, to = 'release', available
	if captures == 1 then
		outcome, told = 'capture', told or redis.call('SISMEMBER', base .. 'unreported', account)
	else
		to = string.format('%d', available + fee)
	end
	-- This can fail, and then nothing is written: money.lua tells why, or settles in its own way.
	if not append(account, outcome, id, fee, to, message, app) then
		return nil
	end
	available, held, moved = to, string.format('%d', held - fee), true
	if captures == 1 then
		captured = string.format('%d', captured + fee)
		if told == 0 then
			redis.call('SADD', base .. 'unreported', account)
			told = 1
		end
	end
	redis.call('HSET', hold, 'state', outcome)
	redis.call('EXPIRE', hold, KEPT)
	closed[#closed + 1] = id
	if message ~= '' then
		redis.call('HSET', about, 'account', account, 'app', app)
		redis.call('EXPIRE', about, KEPT)
	end
	return 'settled'
end
