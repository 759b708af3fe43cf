-- Admits, captures and releases, for as many requests as came together. Every send runs this twice, and each call
-- of Redis costs more than all the rest: so all that is needed is read at once for all of them, then each is
-- decided by itself, as if they had come one by one, and at last all is written at once. No two of them are about the same hold or
-- message. A request that needs more than that has no answer, and comes again alone; where anything fails, that is what all of them do,
-- and nothing was written.
--
-- Next to the calls it is strings that cost, for each byte of them is hashed, then tables that grow and calls of functions. So what
-- many requests have in common is made once, and none of these functions is called for each of them where all are answered alike.

-- quotas answers a request with what is left of the limits.
local function quotas(verdict, second, minute)
	return packed('>c1I7I7', verdict, second > 0 and second or 0, minute > 0 and minute or 0)
end

-- full answers one whose windows are full: behind what is left of the limits, for how long neither changes, and nothing is admitted meanwhile.
local function full(verdict, w, second, minute)
	local left, span = 60e6, 1e6
	for m = 0, MINUTE, MINUTE do
		if w[m + TOTAL] > 0 then
			left = math.min(left, (w[m + CLOSED] > 0 and w[m + OLDEST] or w[m + NEWEST]) + span - w.at)
		end
		span = 60e6
	end
	return quotas(verdict, second, minute) .. packed('>I7', left)
end

-- answered is the answer of a bundle whose requests are answered with these items, one by one.
local function answered(items, n)
	if n == 1 then
		return items[1]
	end
	for k = 1, n do
		items[k] = packed('>I1', #items[k]) .. items[k]
	end
	return '*' .. concat(items)
end

-- enter_some adds a part to an account's entry of the ledger: n holds from one on, and their messages, if they have some.
local function enter_some(p, head, n, ids, from, messages)
	local parts, m, id, message = p.parts, p.pieces, ids[from], messages and messages[from] or ''
	parts[m + 1] = head
	if n == 1 then
		parts[m + 2], m = packed('>I2I4c0I4c0', 1, #id, id, #message, message), m + 2
	else
		local to, length, long = from + n - 1, packed('>I4', #id), packed('>I4', #message)
		parts[m + 2], parts[m + 3], parts[m + 4] = packed('>I2', n), length, concat(ids, length, from, to)
		parts[m + 5], m = messages and long .. concat(messages, long, from, to) or string.rep(long, n), m + 5
	end
	p.pieces, p.entries = m, p.entries + n
end

-- admit decides the requests of a bundle that admits.
local function admit(kind, n, here, ids, _, hash, open_at, found_at, app, per_second, per_minute, account, fee, record, entry)
	local open, found, opened_as = here.open, hash and hash.found, packed('>I7', now) .. record
	local w, p, made, number, opened, to = app and windows_of(here, app), nil, {}, 0, here.opened, here.opened_to
	local items, same, counts, counted, available = n == 1 and {}, 'a', w and kind ~= CHECK, 0, 0
	local second, minute = w and per_second - w[TOTAL] or 0, w and per_minute - w[MINUTE_TOTAL] or 0
	for k = 1, n do
		local id, known, verdict = ids[k], hash and found[found_at + k], 'a'
		if known or hash and open[open_at + k] then -- what was made before is so whatever the windows say now
			verdict = known == 'f' and 'f' or 'r'
		elseif w and minute <= 0 then
			verdict = 'm'
		elseif w and second <= 0 then
			verdict = 's'
		elseif account then
			if p == nil then
				p = purse_of(here.base, account)
				available = p and p.available
			end
			if not p then
				verdict = 'n'
			elseif available <= 0 then
				verdict = 'b'
			elseif kind == HOLD then
				if fee and p.exact and hash and found[1] then
					opened[to + 1], opened[to + 2], to, number = id, opened_as, to + 2, number + 1
					made[number], available = id, available - fee
				else
					verdict = ''
				end
			end
		end
		if k == 1 and (verdict == 'n' or verdict == 'b') then
			same, counts = verdict, false
		elseif verdict ~= same and not items then
			items = {}
			for j = 1, k - 1 do
				items[j] = quotas(same, second + (counts and k - 1 - j or 0), minute + (counts and k - 1 - j or 0))
			end
		end
		if verdict == 'a' and counts then
			second, minute, counted = second - 1, minute - 1, counted + 1
		end
		if verdict == 's' or verdict == 'm' then
			count(w, per_second, per_minute, counted) -- as full looks at them
			counted = 0
			items[k] = full(verdict, w, second, minute)
		elseif items then
			items[k] = verdict ~= '' and quotas(verdict, second, minute) or ''
		end
	end
	if w then
		count(w, per_second, per_minute, counted)
	end
	here.opened_to = to
	if number > 0 then
		enter_some(p, entry, number, made, 1, false)
		p.available, p.held = available, p.held + number * fee
	end
	return items and answered(items, n) or quotas(string.upper(same), second, minute) .. (counts and '\1' or '\0')
end

-- usual is what is the same for all open holds that were made alike, or false where they need more than what is usual.
local function usual(here, hold)
	local at, account, app, fee = unpacked(OPEN, hold)
	local record, p = sub(hold, MADE + 1), purse_of(here.base, account)
	local t = now - at <= OLD and p and p.exact and #fee < FEE_DIGITS and {
		purse = p, fee = tonumber(fee), record = record, entry = sub(record, 5 + #account), named = packed(RECORD, #account, account, #app, app, 0, ''),
	}
	here.usual[hold] = t
	return t
end

-- settle_some settles some holds of a bundle, which were made alike.
local function settle_some(b, t, from, to)
	local kind, _, here, ids, messages, hash, _, found_at = unpack(b)
	local closed, last, put, puts, letter, n, p = here.closed, here.closed_to, hash.put, hash.puts, kind == CAPTURE and 'c' or 'r', to - from + 1, t.purse
	local value, named, asked = letter .. t.record, t.named, found_at + 2
	for k = from, to do
		if messages then
			put[puts + 1], put[puts + 2], puts = hash[asked + k], named, puts + 2 -- under the field that was asked for
		end
		put[puts + 1], put[puts + 2], puts, last = ids[k], value, puts + 2, last + 1
		closed[last] = ids[k]
	end
	hash.puts, here.closed_to, p.held = puts, last, p.held - n * t.fee
	if kind == CAPTURE then
		p.captured, p.captures = p.captured + n * t.fee, true
	else
		p.available = p.available + n * t.fee
	end
	enter_some(p, string.upper(letter) .. t.entry, n, ids, from, messages)
end

-- settle_all settles the holds of a bundle.
local function settle_all(b)
	local _, n, here, _, messages, hash, open_at, found_at = unpack(b)
	local open, found = here.open, hash.found
	local there, items, alike, from = found[1] and (hash.recent or not messages), n == 1 and {}, false, 1
	for k = 1, n do
		local hold, t = open[open_at + k], false
		if hold and there and not (messages and (here.early or found[found_at + k])) then
			t = here.usual[hold]
			if t == nil then
				t = usual(here, hold)
			end
		end
		if t ~= alike then
			if alike then
				settle_some(b, alike, from, k - 1)
			end
			alike, from = t, k
		end
		if not t and not items then
			items = {}
			for j = 1, k - 1 do
				items[j] = 'settled'
			end
		end
		if items then
			items[k] = t and 'settled' or ''
		end
	end
	if alike then
		settle_some(b, alike, from, n)
	end
	return items and answered(items, n) or 'S'
end

-- undo takes back what was written before a write failed.
local function undo()
	for account, p in pairs(purses) do
		if p and p.entry then
			call('XDEL', p.base .. 'ledger:' .. account, p.entry)
		end
		if p and p.added then
			call('SREM', p.base .. 'unreported', account)
		end
	end
end

-- enter_all writes the entries of the ledgers, and tells whether that went well. What was not read may be of another type, and a ledger
-- may be ahead of the clock: so these are written first, and taken back where one of them fails.
local function enter_all()
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
			local ledger, entry, parts = p.base .. 'ledger:' .. account, string.format('%d-0', p.seq), concat(p.parts)
			if type(result) ~= 'table' and ARGV[1] == '' then
				result = redis.pcall('XADD', ledger, entry, 'b', p.before, 'e', parts)
			elseif type(result) ~= 'table' then
				result = redis.pcall('XADD', ledger, entry, 'b', p.before, 'e', parts, 't', ARGV[1])
			end
			if type(result) == 'table' then
				undo()
				return false
			end
			p.entry = entry
		end
	end
	return true
end

-- write writes all that was decided.
local function write()
	for account, p in pairs(purses) do
		if p and p.entries > 0 then
			call('HSET', p.base .. 'wallet:' .. account, 'money', string.format('%d %d %d %d', p.available, p.held, p.captured, p.seq))
		end
	end
	for _, w in ipairs(windows) do
		if w.counted then
			write_windows(w)
		end
	end
	for i = 1, #places do
		local here = places[i]
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
end

-- send answers the bundles, each by a text; nothing at all where it has failed. Where they are of several places, which no Cluster allows,
-- the base of each is among the keys, behind the first two: KEYS[1] is the first one's alone.
local function send()
	local replies = {}
	for i = 1, #ARGV - 1 do
		bundles[i] = take(ARGV[i + 1], place_at(KEYS[i + 2] or KEYS[1]))
	end
	look()
	for i = 1, #bundles do
		replies[i] = bundles[i][1] > HOLD and settle_all(bundles[i]) or admit(unpack(bundles[i]))
	end
	if enter_all() then
		write()
		return replies
	end
end

if #ARGV == 2 and select(2, struct.unpack(BUNDLE, ARGV[2])) == 1 then
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
