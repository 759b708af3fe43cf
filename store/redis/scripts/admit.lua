-- Admits a request: both windows, then the balance, then the hold. An app whose
-- windows are in another place than the account's money is admitted in steps: see
-- admission.go. Every send runs this, and so it has its work in one piece: each
-- function costs, and each call of Redis more than all the rest.
local mode, with_windows, with_money, app, account, fee, id, per_second, per_minute =
	struct.unpack('>I1I1I1I4c0I4c0I4c0I4c0I7I7', ARGV[2])
local CHECK, HOLD = 0, 2
local verdict = 'a'
local left_second, left_minute = 0, 0

local windows, at
local s_head, s_closed, s_total, s_newest, s_count, s_oldest = 0, 0, 0, 0, 0, 0
local m_head, m_closed, m_total, m_newest, m_count, m_oldest = 0, 0, 0, 0, 0, 0
if with_windows == 1 then
	windows = base .. 'windows:' .. app
	local header = redis.call('GETRANGE', windows, '0', '49')
	if header ~= '' then
		s_head, s_closed, s_total, s_newest, s_count, s_oldest, m_head, m_closed, m_total, m_newest, m_count, m_oldest =
			struct.unpack(HEADERS, header)
	end
	-- A clock that was set back a little stands still here, and is believed where
	-- it was set back by more than a window.
	local newest = s_newest > m_newest and s_newest or m_newest
	at = newest > now and newest <= now + 60e6 and newest or now
	if s_newest > at or s_newest <= at - 1e6 then
		s_head, s_closed, s_total, s_count = 0, 0, 0, 0
	elseif s_closed > 0 and s_oldest <= at - 1e6 then
		s_head, s_closed, s_total, s_oldest = forget(windows, SECOND, at - 1e6, s_head, s_closed, s_total, s_oldest)
	end
	if m_newest > at or m_newest <= at - 60e6 then
		m_head, m_closed, m_total, m_count = 0, 0, 0, 0
	elseif m_closed > 0 and m_oldest <= at - 60e6 then
		m_head, m_closed, m_total, m_oldest = forget(windows, MINUTE, at - 60e6, m_head, m_closed, m_total, m_oldest)
	end
	left_second = per_second > s_total and per_second - s_total or 0
	left_minute = per_minute > m_total and per_minute - m_total or 0
	if left_minute == 0 then
		verdict = 'm'
	elseif left_second == 0 then
		verdict = 's'
	end
end

-- What was made before is so whatever the windows say now.
if with_money == 1 and id ~= '' then
	local made = redis.call('HGET', base .. 'hold:' .. id, 'state')
	if made then
		verdict = made == 'forsaken' and 'f' or 'r'
	end
end
local f
if with_money == 1 and verdict == 'a' then
	f = redis.call('HMGET', base .. 'wallet:' .. account, 'available', 'held', 'currency')
	if not f[3] then
		verdict = 'n'
	elseif not f[1] or f[1] == '0' or string.byte(f[1]) == 45 then -- a minus
		verdict = 'b'
	end
end

-- admitted counts the request in the windows, whose key is known to be one.
local function admitted()
	if with_windows == 1 then
		if s_count > 0 and s_count >= per_second / PARTS and s_closed < RUNS then
			redis.call('SETRANGE', windows, SECOND + (s_head + s_closed) % RUNS * RUN, struct.pack(RUN_FORMAT, s_newest, s_count))
			s_oldest = s_closed == 0 and s_newest or s_oldest
			s_closed, s_count = s_closed + 1, 0
		end
		if m_count > 0 and m_count >= per_minute / PARTS and m_closed < RUNS then
			redis.call('SETRANGE', windows, MINUTE + (m_head + m_closed) % RUNS * RUN, struct.pack(RUN_FORMAT, m_newest, m_count))
			m_oldest = m_closed == 0 and m_newest or m_oldest
			m_closed, m_count = m_closed + 1, 0
		end
		redis.call('SETRANGE', windows, '0', struct.pack(HEADERS, s_head, s_closed, s_total + 1, at, s_count + 1, s_oldest,
			m_head, m_closed, m_total + 1, at, m_count + 1, m_oldest))
		-- Once a minute is enough for what is to be there for some minutes.
		if m_total == 0 or at - at % 60e6 > m_newest then
			redis.call('EXPIRE', windows, IDLE)
		end
		left_second, left_minute = left_second - 1, left_minute - 1
	end
	return struct.pack('>c1I7I7', 'a', left_second, left_minute)
end

if verdict ~= 'a' or mode == CHECK then
	return struct.pack('>c1I7I7', verdict, left_second, left_minute)
end
if with_money == 0 or mode ~= HOLD then
	return admitted()
end

-- Sums of few digits are Lua's own. The two steps that come first can fail, for nothing was read
-- of their keys. Then nothing is left of them, and money.lua tells why, or makes the
-- hold in its own way.
local had, held = f[1], f[2] or '0'
if #had < 15 and #held < 15 and #fee < 15 then
	had, held = string.format('%d', had - fee), string.format('%d', held + fee)
	local open = redis.pcall('ZADD', base .. 'open', string.format('%d', now), id)
	if type(open) == 'number' and append(account, 'hold', id, fee, had, '', app) then
		redis.call('HSET', base .. 'hold:' .. id, 'state', 'open', 'account', account, 'app', app, 'fee', fee)
		redis.call('HSET', base .. 'wallet:' .. account, 'available', had, 'held', held)
		return admitted()
	end
	if open == 1 then
		redis.call('ZREM', base .. 'open', id)
	end
end
