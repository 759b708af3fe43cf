-- Does what statuses mean for the wallets of this place. ARGV[2] is a list of
-- them: h the hold, g the id of the one in its place, s whether there is something
-- to settle, m the message, f the template fee by currency. Each is answered by whether a
-- hold was settled and what became of the fee.
local KNOWN = 15 * 60 -- for how long an early fee is remembered, in seconds
local results = {}

-- again captures anew a hold that was released.
local function again(id, new, message)
	local key = base .. 'hold:' .. id
	local h = redis.call('HMGET', key, 'again', 'account', 'app', 'fee')
	if h[1] then
		return 0
	end
	local w, app, fee = must(h[2]), h[3], h[4]
	local available, captured = add(w.available, minus(fee)), add(w.captured, fee)
	if not available or not captured then
		error('a wallet would not fit')
	end
	sound(w.account, new, message)
	enter(w, 'hold', new, fee, available, '', app)
	enter(w, 'capture', new, fee, available, message, app)
	w.available, w.captured = available, captured
	save(w)
	redis.call('HSET', key, 'again', '1')
	redis.call('EXPIRE', key, LIFETIME)
	key = base .. 'hold:' .. new
	redis.call('HSET', key, 'state', 'capture', 'account', w.account, 'app', app, 'fee', fee)
	redis.call('EXPIRE', key, LIFETIME)
	named(w, app, message)
	return 1
end

for i, s in ipairs(cjson.decode(ARGV[2])) do
	local settled, fee = 0, 'none'
	local key = base .. 'message:' .. s.m
	local owner, app
	if s.f then
		redis.call('HDEL', key, 'early') -- this one takes its place
	end
	if s.h then
		if s.s then
			local result = settle(s.h, 'capture', s.m)
			if type(result) == 'table' then
				return result
			elseif result == 'settled' then
				settled = 1
			elseif result == 'conflict' then
				settled = again(s.h, s.g, s.m)
			end
		end
		local h = redis.call('HMGET', base .. 'hold:' .. s.h, 'account', 'app')
		owner, app = h[1], h[2]
	end
	if s.f then
		local m = redis.call('HMGET', key, 'account', 'app', 'fee')
		if not owner then
			owner, app = m[1], m[2]
		end
		if owner then
			fee = m[3] and 'repeated' or charge(must(owner), app, s.m, s.f)
		else
			fee = 'unknown_message'
			if not m[3] then
				redis.call('HSET', key, 'early', cjson.encode(s.f))
				redis.call('EXPIRE', key, KNOWN)
			end
		end
	end
	results[i] = { settled, fee }
end
return results
