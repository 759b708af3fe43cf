-- Admits requests: both windows, then the balance, then the hold. An app whose
-- windows are in another place than the account's money is admitted in steps: see
-- admission.go. Every send runs this, and each call of Redis costs more than all the rest: of
-- requests that come together, the windows of an app and the wallet of an account are read
-- once and written once, as long as no other's come between.
local REQUEST = '>I1I1I1I4c0I4c0I4c0I4c0I7I7'
local CHECK, HOLD = 0, 2

-- The windows that were read last, whether a request was counted in them since, and whether
-- they are to be kept for longer.
local windows, counted, renewed
local s_head, s_closed, s_total, s_newest, s_count, s_oldest
local m_head, m_closed, m_total, m_newest, m_count, m_oldest

local function leave_windows()
	if counted then
		redis.call('SETRANGE', windows, '0', struct.pack(HEADERS, s_head, s_closed, s_total, s_newest, s_count, s_oldest,
			m_head, m_closed, m_total, m_newest, m_count, m_oldest))
		if renewed then
			redis.call('EXPIRE', windows, IDLE)
		end
	end
	windows, counted, renewed = nil, false, false
end

-- turn_to makes an app's windows those that were read last, as they are now.
local function turn_to(key)
	if key ~= windows then
		leave_windows()
		s_head, s_closed, s_total, s_newest, s_count, s_oldest = 0, 0, 0, 0, 0, 0
		m_head, m_closed, m_total, m_newest, m_count, m_oldest = 0, 0, 0, 0, 0, 0
		local header = redis.call('GETRANGE', key, '0', '49')
		if header ~= '' then
			s_head, s_closed, s_total, s_newest, s_count, s_oldest, m_head, m_closed, m_total, m_newest, m_count, m_oldest =
				struct.unpack(HEADERS, header)
		end
	end
	-- A clock that was set back a little stands still here, and is believed where
	-- it was set back by more than a window.
	local newest = s_newest > m_newest and s_newest or m_newest
	local at = newest > now and newest <= now + 60e6 and newest or now
	if s_newest > at or s_newest <= at - 1e6 then
		s_head, s_closed, s_total, s_count = 0, 0, 0, 0
	elseif s_closed > 0 and s_oldest <= at - 1e6 then
		s_head, s_closed, s_total, s_oldest = forget(key, SECOND, at - 1e6, s_head, s_closed, s_total, s_oldest)
	end
	if m_newest > at or m_newest <= at - 60e6 then
		m_head, m_closed, m_total, m_count = 0, 0, 0, 0
	elseif m_closed > 0 and m_oldest <= at - 60e6 then
		m_head, m_closed, m_total, m_oldest = forget(key, MINUTE, at - 60e6, m_head, m_closed, m_total, m_oldest)
	end
	windows = key
	return at
end

-- admitted counts a request in the windows at a time, nil where they are in another place, and answers it.
local function admitted(at, per_second, per_minute)
	if not at then
		return struct.pack('>c1I7I7', 'a', 0, 0)
	end
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
	-- Once a minute is enough for what is to be there for some minutes.
	renewed = renewed or m_total == 0 or at - at % 60e6 > m_newest
	s_total, s_newest, s_count = s_total + 1, at, s_count + 1
	m_total, m_newest, m_count = m_total + 1, at, m_count + 1
	counted = true
	return struct.pack('>c1I7I7', 'a', per_second - s_total, per_minute - m_total)
end

-- The account whose wallet was read last, what is in it, and whether that was changed since.
local payer, available, held, currency, moved

local function leave_wallet()
	if moved then
		redis.call('HSET', base .. 'wallet:' .. payer, 'available', available, 'held', held)
	end
	payer, moved = nil, false
end

-- opened is the command that notes the holds that were made, once there are some.
local opened

local function done()
	leave_windows()
	leave_wallet()
	if opened and #opened > 2 then
		redis.call(unpack(opened))
	end
end

-- one admits a request. A hold in a wallet with sums of many digits, which are not Lua's own, has no
-- answer, nor has one that cannot be entered in the ledger.
local function one(request)
	local mode, with_windows, with_money, app, account, fee, id, per_second, per_minute = struct.unpack(REQUEST, request)
	local verdict, at = 'a', nil
	local left_second, left_minute = 0, 0
	if with_windows == 1 then
		at = turn_to(base .. 'windows:' .. app)
		left_second = per_second > s_total and per_second - s_total or 0
		left_minute = per_minute > m_total and per_minute - m_total or 0
		if left_minute == 0 then
			verdict = 'm'
		elseif left_second == 0 then
			verdict = 's'
		end
	end
	local hold = base .. 'hold:' .. id
	if with_money == 1 then
		-- What was made before is so whatever the windows say now.
		local made = id ~= '' and redis.call('HGET', hold, 'state')
		if made then
			verdict = made == 'forsaken' and 'f' or 'r'
		elseif verdict == 'a' then
			if account ~= payer then
				leave_wallet()
				local f = redis.call('HMGET', base .. 'wallet:' .. account, 'available', 'held', 'currency')
				payer, available, held, currency = account, f[1], f[2] or '0', f[3]
			end
			if not currency then
				verdict = 'n'
			elseif not available or available == '0' or string.byte(available) == 45 then -- a minus
				verdict = 'b'
			end
		end
	end
	if verdict ~= 'a' or mode == CHECK then
		return struct.pack('>c1I7I7', verdict, left_second, left_minute)
	end
	if with_money == 1 and mode == HOLD then
		if #available >= 15 or #held >= 15 or #fee >= 15 then
			return nil
		end
		if not opened then
			redis.call('ZCARD', base .. 'open') -- it fails where that is something else
			opened = { 'ZADD', base .. 'open' }
		end
		local left = string.format('%d', available - fee)
		-- This can fail, and then nothing of the hold is written.
		if not append(account, 'hold', id, fee, left, '', app) then
			return nil
		end
		redis.call('HSET', hold, 'state', 'open', 'account', account, 'app', app, 'fee', fee)
		opened[#opened + 1] = string.format('%d', now)
		opened[#opened + 1] = id
		available, held, moved = left, string.format('%d', held + fee), true
	end
	return admitted(at, per_second, per_minute)
end
