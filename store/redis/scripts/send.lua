-- Admits, captures and releases, for as many requests as came together. Every send runs this twice, and each call
-- of Redis costs more than all the rest: so all that is needed is read at once for all of them, then each is
-- decided by itself, as if they had come one by one, and at last all is written at once. A request that needs more
-- than that has no answer, and comes again alone, and so does one about a hold or a message that another one before it
-- is about; where anything fails, that is what all of them do, and nothing was written.
--
-- Next to the calls it is strings that cost, for each byte of them is hashed, then tables that grow, and functions, which are
-- made anew in every run. So what many requests have in common is made once, and this is one long function.
--
-- Where requests are of several places, which no Cluster allows, the base of each is among the keys, behind the first two: KEYS[1]
-- is the first one's alone.
--
-- A request is its kind, hold and message, these two as they stand in the ledger. Behind them one that admits has
-- whether windows and money are asked for, the limits, and the RECORD of what it costs; one that captures has the RECORD of a hold that
-- is to be made anew, or nothing.
local REQUEST, ADMIT, RECORD_AT = '>I1I4c0I4c0', '>I1I1I7I7I4c0I4c0I4c0', 17
local OPEN = '>I7I4c0I4c0I4c0' -- what an open hold is
local CHECK, HOLD, CAPTURE = 0, 2, 3 -- and 1 counts, 4 releases
-- Amounts of fewer digits than DIGITS, and all the fees of fewer than FEE_DIGITS that one run can add, are exact in Lua.
local DIGITS, FEE_DIGITS = 15, 13
-- A hold that is older than this, in microseconds, may have outlived the hash that it is to be settled in.
local OLD = 30 * 24 * 3600 * 1e6

-- undo takes back what was written before a write failed.
local function undo(purses)
	for account, p in pairs(purses) do
		if p and p.entry then
			redis.call('XDEL', p.base .. 'ledger:' .. account, p.entry)
		end
		if p and p.added then
			redis.call('SREM', p.base .. 'unreported', account)
		end
	end
end

-- read_purse returns an account's money, or false where there is no such account. The parts of the ledger's entry come to be in it.
local function read_purse(base, account)
	local money = redis.call('HGET', base .. 'wallet:' .. account, 'money')
	if not money then
		return false
	end
	local available, held, captured, seq = string.match(money, MONEY)
	return {
		base = base, available = tonumber(available), held = tonumber(held), captured = tonumber(captured), seq = tonumber(seq),
		exact = #available < DIGITS and #held < DIGITS and #captured < DIGITS, before = available,
		entries = 0, parts = {}, captures = false, added = false, entry = false,
	}
end

-- send answers the requests, each by a text; nothing at all where it has failed.
local function send()
	local call, sub, format, packed, unpacked, argv = redis.call, string.sub, string.format, struct.pack, struct.unpack, ARGV
	local requests, replies, keys, base = {}, {}, KEYS, nil -- base is that of a request

	-- What is read: the holds that are open, and of the hashes that many share a first field and that of each request.
	-- Such a hash is also the command that asks for them. here is all that is read and written in one place.
	local places, heres, hashes, seen, here = {}, {}, {}, {}, false
	for i = 1, #argv - 1 do
		local kind, id, message, rest = unpacked(REQUEST, argv[i + 1])
		local hash, at = false, 0
		base = keys[i + 2] or keys[1]
		if not here or here.base ~= base then
			here = heres[base]
			if not here then
				here = {
					base = base, opens = { 'HMGET', base .. 'open', '' }, asked = 3, asks = false, open = {}, early = false, past = {},
					windows = {}, terms = {}, opened = { 'HSET', base .. 'open' }, opened_to = 2, closed = { 'HDEL', base .. 'open' }, closed_to = 2,
				}
				heres[base], places[#places + 1] = here, here
			end
		end
		local asked = here.asked + 1
		here.asked, here.opens[asked] = asked, id
		if id ~= '' and seen[id] or message ~= '' and seen[message] then
			kind = false -- it comes again alone
		elseif id ~= '' then
			local days = sub(id, 6, 9)
			seen[id], here.asks = true, true
			hash = here.past[days]
			if not hash then
				local period = period_of(days)
				local key = past(base, period)
				hash = { 'HMGET', key, '', asked = 3, found = false, put = { 'HSET', key }, puts = 2, recent = is_recent(period) }
				here.past[days], hashes[#hashes + 1] = hash, hash
			end
			if kind <= HOLD or message ~= '' then
				at = hash.asked - 1
				hash.asked = at + 2
				hash[at + 2] = id
				if message ~= '' then
					seen[message] = true
					hash[at + 2] = MESSAGE .. message
					kind = hash.recent and kind
				end
			end
		end
		requests[i] = { kind, id, message, rest, hash, at, asked - 2, here }
	end
	base = nil -- below, it is here.base
	for i = 1, #places do
		here = places[i]
		local open = here.asks and call(unpack(here.opens)) or here.open
		here.open = open
		-- The field without a name among the open holds is until when there may be early fees.
		if open[1] and tonumber(open[1]) > real then
			local earlies = { 'EXISTS' }
			for _, q in ipairs(requests) do
				earlies[#earlies + 1] = q[8] == here and q[3] ~= '' and here.base .. 'early:' .. q[3] or nil
			end
			here.early = earlies[2] and call(unpack(earlies)) > 0
		end
	end
	for i = 1, #hashes do
		hashes[i].found = call(unpack(hashes[i]))
	end

	-- What is decided, and is to be written: purses by account, all windows, and commands. terms are what requests are about, by
	-- what tells of it: many are about the same.
	local purses, windows, now_packed = {}, {}, packed('>I7', now)
	for i = 1, #requests do
		local q, text, verdict = requests[i], argv[i + 1], ''
		local kind, id, message, hash = q[1], q[2], q[3], q[5]
		here = q[8]
		local terms = here.terms
		local hold, known = id ~= '' and here.open[q[7]], hash and hash.found[q[6]]
		if kind and kind <= HOLD then
			local asked = sub(text, q[4])
			local t = terms[asked]
			if not t then
				local with_windows, with_money, per_second, per_minute, account, app, fee = unpacked(ADMIT, asked)
				local record, w, p = sub(asked, RECORD_AT), false, nil
				if with_windows == 1 then
					w = here.windows[app]
					if not w then
						w = read_windows(here.base, app)
						here.windows[app], windows[#windows + 1] = w, w
					end
				end
				t = {
					windows = w, per_second = per_second, per_minute = per_minute, account = with_money == 1 and account,
					fee = #fee < FEE_DIGITS and tonumber(fee), record = now_packed .. record, entry = 'h' .. sub(record, 5 + #account),
				}
				terms[asked] = t
			end
			local w, second, minute = t.windows, 0, 0
			verdict = 'a'
			if w then
				second, minute = t.per_second - w[TOTAL], t.per_minute - w[MINUTE_TOTAL]
				if minute <= 0 then
					verdict = 'm'
				elseif second <= 0 then
					verdict = 's'
				end
			end
			-- What was made before is so whatever the windows say now.
			if known or hold then
				verdict = known == 'f' and 'f' or 'r'
			elseif verdict == 'a' and t.account then
				local p = purses[t.account]
				if p == nil then
					p = read_purse(here.base, t.account)
					purses[t.account] = p
				end
				if not p then
					verdict = 'n'
				elseif p.available <= 0 then
					verdict = 'b'
				elseif kind == HOLD then
					local fee = t.fee
					if not (fee and p.exact and hash and hash.found[1]) then
						verdict = ''
					else
						local opened, to = here.opened, here.opened_to
						opened[to + 1], opened[to + 2], here.opened_to = id, t.record, to + 2
						local parts, n = p.parts, 2 * p.entries
						parts[n + 1], parts[n + 2], p.entries = t.entry, sub(text, 2, q[4] - 1), p.entries + 1
						p.available, p.held = p.available - fee, p.held + fee
					end
				end
			end
			if verdict == 'a' and w and kind ~= CHECK then
				count(w, t.per_second, t.per_minute)
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
				verdict = packed('>c1I7I7I7', verdict, second > 0 and second or 0, minute > 0 and minute or 0, left)
			elseif verdict ~= '' then
				verdict = packed('>c1I7I7', verdict, second > 0 and second or 0, minute > 0 and minute or 0)
			end
		elseif kind and hold and hash.found[1] and (message == '' or not here.early and not known) then
			local t = terms[hold]
			if t == nil then
				local at, account, app, fee = unpacked(OPEN, hold)
				local record, p = sub(hold, MADE + 1), purses[account]
				if p == nil then
					p = read_purse(here.base, account)
					purses[account] = p
				end
				t = now - at <= OLD and p and p.exact and #fee < FEE_DIGITS and {
					purse = p, fee = tonumber(fee), named = packed(RECORD, #account, account, #app, app, 0, ''),
					captured = 'c' .. record, capture = 'c' .. sub(record, 5 + #account),
					released = 'r' .. record, release = 'r' .. sub(record, 5 + #account),
				}
				terms[hold] = t
			end
			if t then
				local p, fee, entry, value, put, puts = t.purse, t.fee, t.release, t.released, hash.put, hash.puts
				if kind == CAPTURE then
					entry, value = t.capture, t.captured
					p.captured, p.captures = p.captured + fee, true
					if message ~= '' then
						put[puts + 1], put[puts + 2], puts = hash[q[6] + 2], t.named, puts + 2 -- under the field that was asked for
					end
				else
					p.available = p.available + fee
				end
				local parts, n = p.parts, 2 * p.entries
				parts[n + 1], parts[n + 2] = entry, sub(text, 2, q[4] - 1)
				p.entries, p.held = p.entries + 1, p.held - fee
				put[puts + 1], put[puts + 2], hash.puts = id, value, puts + 2
				here.closed_to = here.closed_to + 1
				here.closed[here.closed_to] = id
				verdict = 'settled'
			end
		end
		replies[i] = verdict
	end

	-- What is written. What was not read may be of another type, and a ledger may be ahead of the clock: those
	-- come first, and are taken back where one of them fails.
	for account, p in pairs(purses) do
		if p and p.entries > 0 then
			local result
			if p.captures then
				result = redis.pcall('SADD', p.base .. 'unreported', account)
				p.added = result == 1
			end
			local first = math.max(free, p.seq + 1)
			p.seq = first + p.entries - 1
			if first == free then -- one that is ahead of the clock moves no other
				free = p.seq + 1
			end
			local ledger, entry, parts = p.base .. 'ledger:' .. account, format('%d-0', p.seq), table.concat(p.parts)
			if type(result) ~= 'table' and argv[1] == '' then
				result = redis.pcall('XADD', ledger, entry, 'b', p.before, 'e', parts)
			elseif type(result) ~= 'table' then
				result = redis.pcall('XADD', ledger, entry, 'b', p.before, 'e', parts, 't', argv[1])
			end
			if type(result) == 'table' then
				return undo(purses)
			end
			p.entry = entry
		end
	end
	for account, p in pairs(purses) do
		if p and p.entries > 0 then
			call('HSET', p.base .. 'wallet:' .. account, 'money', format('%d %d %d %d', p.available, p.held, p.captured, p.seq))
		end
	end
	for _, w in ipairs(windows) do
		if w.counted then
			write_windows(w)
		end
	end
	for i = 1, #places do
		here = places[i]
		if here.opened_to > 2 then
			call(unpack(here.opened))
		end
		if here.closed_to > 2 then
			call(unpack(here.closed))
		end
	end
	for i = 1, #hashes do
		if hashes[i].puts > 2 then
			call(unpack(hashes[i].put))
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
