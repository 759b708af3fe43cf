-- Admits, captures and releases, for as many requests as came together. Every send runs this twice, and each call
-- of Redis costs more than all the rest: so all that is needed is read at once for all of them, then each is
-- decided by itself, as if they had come one by one, and at last all is written at once. A request that needs more
-- than that has no answer, and comes again alone; where anything fails, that is what all of
-- them do, and nothing was written. Next to the calls it is functions and tables that cost, for they are made anew in
-- every run: hence one long function.
local ADMIT, SETTLE = '>I1I1I1I7I7I4c0I4c0I4c0I4c0', '>I1I4c0I4c0'
local OPEN = '>I7I4c0I4c0I4c0' -- what an open hold is
local CHECK, HOLD, CAPTURE = 0, 2, 3 -- and 1 counts, 4 releases
local ACCOUNT_AT = 18 -- where the account is in a request to admit; app, fee and hold follow
-- Sums below this are exact in Lua, and so are a few of them together.
local EXACT = 1e15
-- A hold that is older than this, in microseconds, may have outlived the hash that it is to be settled in.
local OLD = 30 * 24 * 3600 * 1e6

-- undo takes back what was written before a write failed.
local function undo(settled, purses)
	for key, command in pairs(settled or {}) do
		for i = 3, #command, 2 do
			redis.pcall('HDEL', key, command[i]) -- it may not have come to it
		end
	end
	for account, p in pairs(purses) do
		if p and p.entry then
			redis.call('XDEL', base .. 'ledger:' .. account, p.entry)
		end
		if p and p.added then
			redis.call('SREM', base .. 'unreported', account)
		end
	end
end

-- read_purse returns an account's money, or false where there is no such account. The parts of the ledger's entry come to be in it.
local function read_purse(account)
	local money = redis.call('HGET', base .. 'wallet:' .. account, 'money')
	if not money then
		return false
	end
	local available, held, captured, seq = string.match(money, MONEY)
	return {
		available = tonumber(available), held = tonumber(held), captured = tonumber(captured), seq = tonumber(seq),
		exact = #available < 15 and #held < 15 and #captured < 15, before = available, n = 0,
	}
end

local requests = {}

-- send answers the requests, each by a text; nothing at all where it has failed.
local function send()
	local call, sub, format = redis.call, string.sub, string.format
	local replies = {}

	-- What is read: the holds that are open, and of the hashes that many share a first field and that of each request.
	local opens, asked, earlies = { 'HMGET', base .. 'open', '' }, {}, nil
	for i = 2, #ARGV do
		local text, q, id, key, field = ARGV[i]
		if string.byte(text) <= HOLD then
			q = { struct.unpack(ADMIT, text) }
			id = q[3] == 1 and q[9] or ''
			key, field = base .. 'settled:' .. sub(id, 6, 10), id
		else
			q = { struct.unpack(SETTLE, text) }
			id, field = q[2], q[3]
			if field ~= '' then
				local period = tonumber(sub(id, 6, 9), 32) or 0
				key = base .. 'messages:' .. (period <= newest_period + 1 and period > newest_period - PERIODS and period or '')
				earlies = earlies or { 'EXISTS' }
				earlies[#earlies + 1] = base .. 'early:' .. field
			end
		end
		if id ~= '' then
			opens[#opens + 1] = id
			q.open = #opens - 2
			if key then
				local a = asked[key]
				if not a then
					a = { 'HMGET', key, '' }
					asked[key] = a
				end
				a[#a + 1] = field
				q.key, q.at = key, #a - 2
			end
		end
		requests[i - 1] = q
	end
	local open = #opens > 3 and call(unpack(opens))
	for key, a in pairs(asked) do
		asked[key] = call(unpack(a))
	end
	-- The field without a name among the open holds is until when there may be early fees.
	local early = earlies and open[1] and tonumber(open[1]) > real and call(unpack(earlies)) > 0

	-- What is decided, and is to be written: purses by account, windows by app, commands by key. made, done and named are
	-- what was decided in this run of holds and messages.
	local purses, windows, opened, closed, settled, messages = {}, {}, nil, nil, nil, nil
	local made, done, named = {}, nil, nil
	for i, q in ipairs(requests) do
		local text, kind, account, app, fee, id, message, record, p = ARGV[i + 1], q[1]
		local verdict, w, second, minute = 'a', nil, 0, 0
		local known, begun
		if q.key then
			known, begun = asked[q.key][q.at], asked[q.key][1]
		end
		if kind <= HOLD then
			account, app, fee, id = q[6], q[7], q[8], q[9]
			if q[2] == 1 then
				w = windows[app]
				if not w then
					w = read_windows(app)
					windows[app] = w
				end
				second, minute = q[4] - w[TOTAL], q[5] - w[MINUTE + TOTAL]
				if minute <= 0 then
					verdict = 'm'
				elseif second <= 0 then
					verdict = 's'
				end
			end
			-- What was made before is so whatever the windows say now.
			if q.open and (open[q.open] or known or made[id] or done and done[id]) then
				verdict = known == 'f' and 'f' or 'r'
			end
		else
			id, message = q[2], q[3]
			record = made[id]
			if record == nil then
				record = open[q.open]
			end
			if not record or message ~= '' and (early or not begun or known or named and named[message]) then
				verdict = ''
			else
				local at
				at, account, app, fee = struct.unpack(OPEN, record)
				verdict = now - at > OLD and '' or verdict
			end
		end
		if verdict == 'a' and (kind > HOLD or q[3] == 1) then
			p = purses[account]
			if p == nil then
				p = read_purse(account)
				purses[account] = p
			end
			if not p then
				verdict = kind > HOLD and '' or 'n'
			elseif kind <= HOLD and p.available <= 0 then
				verdict = 'b'
			elseif kind >= HOLD and (not p.exact or #fee >= 15 or p.available >= EXACT or p.available <= -EXACT or p.held >= EXACT or p.captured >= EXACT
				or kind == HOLD and not begun) then
				verdict = ''
			end
		end
		if verdict == 'a' and kind > HOLD then
			local letter = 'r'
			if kind == CAPTURE then
				letter = 'c'
				p.captured = p.captured + fee
				p.list = true
				if message ~= '' then
					messages, named = messages or {}, named or {}
					local command = messages[q.key] or { 'HSET', q.key }
					command[#command + 1], command[#command + 2] = message, struct.pack(RECORD, #account, account, #app, app, 0, '')
					messages[q.key], named[message] = command, true
				end
			else
				p.available = p.available + fee
			end
			p.held = p.held - fee
			p.n = p.n + 1
			p[p.n] = letter .. sub(record, MADE + 5 + #account) .. sub(text, 2, 9 + #id + #message)
			settled, done, closed = settled or {}, done or {}, closed or { 'HDEL', base .. 'open' }
			local key = base .. 'settled:' .. sub(id, 6, 10)
			local command = settled[key] or { 'HSET', key }
			command[#command + 1], command[#command + 2] = id, letter .. sub(record, MADE + 1)
			closed[#closed + 1] = id
			settled[key], made[id], done[id] = command, false, true
			verdict = 'settled'
		elseif verdict ~= '' and kind <= HOLD then
			if p and kind == HOLD and verdict == 'a' then
				local app_at = ACCOUNT_AT + 4 + #account
				record = struct.pack('>I7', now) .. sub(text, ACCOUNT_AT, app_at + 7 + #app + #fee)
				opened = opened or { 'HSET', base .. 'open' }
				opened[#opened + 1], opened[#opened + 2] = id, record
				made[id] = record
				p.n = p.n + 1
				p[p.n] = 'h' .. sub(text, app_at) .. '\0\0\0\0'
				p.available, p.held = p.available - fee, p.held + fee
			end
			if w and verdict == 'a' and kind ~= CHECK then
				count(w, q[4], q[5])
				second, minute = second - 1, minute - 1
			end
			if verdict == 's' or verdict == 'm' then
				-- Behind it, for how long neither window changes: nothing is admitted meanwhile.
				local left, span = 60e6, 1e6
				for m = 0, MINUTE, MINUTE do
					if w[m + TOTAL] > 0 then
						left = math.min(left, (w[m + CLOSED] > 0 and w[m + OLDEST] or w[m + NEWEST]) + span - w.at)
					end
					span = 60e6
				end
				verdict = struct.pack('>c1I7I7I7', verdict, second > 0 and second or 0, minute > 0 and minute or 0, left)
			else
				verdict = struct.pack('>c1I7I7', verdict, second > 0 and second or 0, minute > 0 and minute or 0)
			end
		end
		replies[i] = verdict
	end

	-- What is written. What was not read may be of another type, and a ledger may be ahead of the clock: those
	-- come first, and are taken back where one of them fails.
	if settled then
		for _, command in pairs(settled) do
			local result = redis.pcall(unpack(command))
			if type(result) == 'table' then
				return undo(settled, purses)
			end
		end
	end
	for account, p in pairs(purses) do
		if p and p.n > 0 then
			local result
			if p.list then
				result = redis.pcall('SADD', base .. 'unreported', account)
				p.added = result == 1
			end
			local first = math.max(free, p.seq + 1)
			p.seq = first + p.n - 1
			if first == free then -- one that is ahead of the clock moves no other
				free = p.seq + 1
			end
			local ledger, entry, parts = base .. 'ledger:' .. account, format('%d-0', p.seq), p[1]
			if p.n > 1 then
				parts = table.concat(p)
			end
			if type(result) ~= 'table' and ARGV[1] == '' then
				result = redis.pcall('XADD', ledger, entry, 'b', p.before, 'e', parts)
			elseif type(result) ~= 'table' then
				result = redis.pcall('XADD', ledger, entry, 'b', p.before, 'e', parts, 't', ARGV[1])
			end
			if type(result) == 'table' then
				return undo(settled, purses)
			end
			p.entry = entry
		end
	end
	for account, p in pairs(purses) do
		if p and p.n > 0 then
			call('HSET', base .. 'wallet:' .. account, 'money', format('%d %d %d %d', p.available, p.held, p.captured, p.seq))
		end
	end
	for _, w in pairs(windows) do
		if w.counted then
			write_windows(w)
		end
	end
	if opened then
		call(unpack(opened))
	end
	if closed then
		call(unpack(closed))
	end
	if messages then
		for _, command in pairs(messages) do
			call(unpack(command))
		end
	end
	return replies
end

if #ARGV == 2 then
	local replies = send()
	if replies and replies[1] ~= '' then
		return replies[1]
	end
else
	local ok, replies = pcall(send)
	if not ok or not replies then
		replies = {}
		for i = 2, #ARGV do
			replies[i - 1] = ''
		end
	end
	return replies
end
