-- Captures or releases a hold. The account, app and fee are given by the gateway that has
-- made the hold: where a failover has lost the hold, the capture brings it back. Every send
-- runs this, and so what is usual has its work in one piece, as in admit.lua.
local captures, id, message, account, app, fee = struct.unpack('>I1I4c0I4c0I4c0I4c0I4c0', ARGV[2])
local outcome = captures == 1 and 'capture' or 'release'
local key = base .. 'hold:' .. id
local state
do
	local h = redis.call('HMGET', key, 'state', 'account', 'app', 'fee')
	state = h[1]
	local wallet, about = base .. 'wallet:' .. (h[2] or ''), base .. 'message:' .. message
	local f = state == 'open' and redis.call('HMGET', wallet, 'available', 'held', 'captured')
	if f and f[1] and f[2] and f[3] and #f[1] < 15 and #f[2] < 15 and #f[3] < 15 and #h[4] < 15
		and (message == '' or redis.call('EXISTS', about) == 0) then
		local available, held, captured = f[1], string.format('%d', f[2] - h[4]), f[3]
		local told = 1
		redis.call('ZCARD', base .. 'open')
		if captures == 1 then
			captured = string.format('%d', captured + h[4])
			told = redis.call('SISMEMBER', base .. 'unreported', h[2])
		else
			available = string.format('%d', available + h[4])
		end
		-- This can fail, and then nothing is written: money.lua tells why, or settles in its own way.
		if append(h[2], outcome, id, h[4], available, message, h[3]) then
			if told == 0 then
				redis.call('SADD', base .. 'unreported', h[2])
			end
			if captures == 1 then
				redis.call('HSET', wallet, 'held', held, 'captured', captured)
			else
				redis.call('HSET', wallet, 'available', available, 'held', held)
			end
			redis.call('HSET', key, 'state', outcome)
			redis.call('EXPIRE', key, '3283200') -- LIFETIME in money.lua
			redis.call('ZREM', base .. 'open', id)
			if message ~= '' then
				redis.call('HSET', about, 'account', h[2], 'app', h[3])
				redis.call('EXPIRE', about, '3283200')
			end
			return 'settled'
		end
	end
end
