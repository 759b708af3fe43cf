-- Does what statuses mean for the wallets of this place. ARGV[2] is a list of
-- them: h the hold, g the id of the one in its place, s whether there is something
-- to settle, m the message, f the template fee by currency. Each is answered by whether a
-- hold was settled and what became of the fee.
local KNOWN = 15 * 60 -- for how long an early fee is remembered, in seconds
local results = {}

-- again captures anew a hold that was released.
local function again(id, new, message)
	local h = hold_of(id)
	if h.state ~= 'r' then
		return 0
	end
	local w, app, fee = must(h.account), h.app, h.fee
	local available, captured = add(w.available, minus(fee)), add(w.captured, fee)
	if not available or not captured then
		error('a wallet would not fit')
	end
	sound(w.account, settled_in(new), named_in(id))
	readable(message)
	enter(w, 'hold', new, fee, '', app)
	w.available = available
	enter(w, 'capture', new, fee, message, app)
	w.captured = captured
	save(w)
	local record = pack(w.account, app, fee)
	redis.call('HSET', past(base, settled_in(id)), id, 'a' .. record)
	put(settled_in(new), new, 'c' .. record)
	named(id, w, app, message)
	return 1
end

-- template_fee charges a message's template fee, unless it was charged before. The hold is that of the message, and h what is
-- known of it, or nil. A message that is not known yet may come to be.
local function template_fee(hold, h, message, prices)
	if h then
		-- Usually it is where its hold tells, and was charged there if it was.
		local value = redis.call('HGET', past(base, named_in(hold)), MESSAGE .. message)
		if value and select(3, struct.unpack(RECORD, value)) ~= '' then
			return 'repeated'
		end
	end
	local record, period, charged = message_of(message)
	local owner, app
	if h then
		owner, app = h.account, h.app
	elseif record and record.account ~= '' then
		owner, app = record.account, record.app
	end
	if owner then
		return charged and 'repeated' or charge(must(owner), app, message, prices, record, period or named_in(hold))
	end
	if not charged then
		redis.call('HSET', base .. 'open', '', digits(real + KNOWN * 1e6))
		redis.call('SET', base .. 'early:' .. message, cjson.encode(prices), 'EX', KNOWN)
	end
	return 'unknown_message'
end

for i, s in ipairs(cjson.decode(ARGV[2])) do
	local settled, fee, h = 0, 'none', nil
	local early = base .. 'early:' .. s.m
	if s.f and redis.call('GET', early) then
		redis.call('DEL', early) -- this one takes its place
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
		h = s.f and hold_of(s.h)
	end
	if s.f then
		fee = template_fee(s.h, h, s.m, s.f)
	end
	results[i] = { settled, fee }
end
return results
