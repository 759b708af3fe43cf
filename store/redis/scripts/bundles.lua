-- What one run of the script of a send is asked, what it looks for, and what it finds.
--
-- What comes together is in bundles, of requests that are alike but for their holds and messages, and these of one length and of the
-- same days (see request.like in bundle.go). A bundle has its kind, how many they are and whether they have messages; then, where it
-- admits, its TERMS: whether windows and money are asked for, the limits, and the RECORD of what each costs; then the holds, and the
-- messages. Behind them, a capture that is alone may have the RECORD of a hold that is to be made anew.
local BUNDLE, TERMS, RECORD_AT = '>I1I2I1', '>I1I1I7I7I4c0I4c0I4c0', 21
local OPEN = '>I7I4c0I4c0I4c0' -- what an open hold is
local EACH = 'I4c0' -- a hold or a message
local CHECK, HOLD, CAPTURE = 0, 2, 3 -- and 1 counts, 4 releases
-- Amounts of fewer digits than DIGITS, and all the fees of fewer than FEE_DIGITS that one run can add, are exact in Lua.
local DIGITS, FEE_DIGITS = 15, 13
-- A hold that is older than this, in microseconds, may have outlived the hash that it is to be settled in.
local OLD = 30 * 24 * 3600 * 1e6

local call, sub, concat = redis.call, string.sub, table.concat
local packed, unpacked = struct.pack, struct.unpack

-- What is read and written: bundles in the order of the arguments, places and hashes in that in which they were met, purses by
-- account, windows as they come.
local bundles, places, heres, hashes, purses, windows = {}, {}, {}, {}, {}, {}

-- place_at is all that is read and written in one place: commands, and what they have found.
local function place_at(base)
	local here = heres[base]
	if not here then
		here = {
			base = base, opens = { 'HMGET', base .. 'open', '' }, asked = 3, open = {}, early = false, past = {},
			windows = {}, usual = {}, opened = { 'HSET', base .. 'open' }, opened_to = 2, closed = { 'HDEL', base .. 'open' }, closed_to = 2,
		}
		heres[base], places[#places + 1] = here, here
	end
	return here
end

-- hash_of is the hash that many holds and messages share. It is also the command that asks for them, behind its first field.
local function hash_of(here, id)
	local days = sub(id, 6, 9)
	local hash = here.past[days]
	if not hash then
		local period = period_of(days)
		local key = past(here.base, period)
		hash = { 'HMGET', key, '', asked = 3, found = false, put = { 'HSET', key }, puts = 2, recent = is_recent(period) }
		here.past[days], hashes[#hashes + 1] = hash, hash
	end
	return hash
end

-- formats are those of so many holds or messages.
local formats = {}

-- look_for notes which holds and messages a bundle looks for. It returns the hash that they share, and where their fields are: in a command
-- and, but for the two words before the fields, in its answer.
local function look_for(here, kind, n, ids, messages)
	local hash, opens, from = hash_of(here, ids[1]), here.opens, here.asked
	local to = hash.asked
	for k = 1, n do
		opens[from + k] = ids[k]
	end
	here.asked = from + n
	if kind <= HOLD then
		for k = 1, n do
			hash[to + k] = ids[k]
		end
		hash.asked = to + n
	elseif messages then
		for k = 1, n do
			hash[to + k] = MESSAGE .. messages[k]
		end
		hash.asked = to + n
	end
	return hash, from - 2, to - 2
end

-- take reads a bundle, and notes what is to be looked for. What it returns is to be unpacked: a list is smaller than a table with names.
local function take(text, here)
	local kind, n, named, at = unpacked(BUNDLE, text)
	local format, hash, open_at, found_at = formats[n], false, 0, 0
	if not format then
		format = '>' .. string.rep(EACH, n)
		formats[n] = format
	end
	if kind > HOLD then
		local ids = { unpacked(format, text, at) } -- and then where the messages begin
		local messages = named == 1 and { unpacked(format, text, ids[n + 1]) }
		hash, open_at, found_at = look_for(here, kind, n, ids, messages)
		return { kind, n, here, ids, messages, hash, open_at, found_at }
	end
	local with_windows, with_money, per_second, per_minute, account, app, fee, next = unpacked(TERMS, text, at)
	local ids, record = { unpacked(format, text, next) }, sub(text, RECORD_AT, next - 1)
	if ids[1] ~= '' then
		hash, open_at, found_at = look_for(here, kind, n, ids, false)
	end
	return {
		kind, n, here, ids, false, hash, open_at, found_at, with_windows == 1 and app, per_second, per_minute, with_money == 1 and account,
		#fee < FEE_DIGITS and tonumber(fee) or false, record, 'H' .. sub(record, 5 + #account),
	}
end

-- look looks for all that was noted.
local function look()
	for i = 1, #places do
		local here = places[i]
		local open = here.asked > 3 and call(unpack(here.opens)) or here.open
		here.open = open
		-- The field without a name among the open holds is until when there may be early fees.
		if open[1] and tonumber(open[1]) > real then
			local earlies = { 'EXISTS' }
			for j = 1, #bundles do
				local _, n, place, _, messages = unpack(bundles[j])
				for k = 1, place == here and messages and n or 0 do
					earlies[#earlies + 1] = here.base .. 'early:' .. messages[k]
				end
			end
			here.early = earlies[2] and call(unpack(earlies)) > 0
		end
	end
	for i = 1, #hashes do
		hashes[i].found = call(unpack(hashes[i]))
	end
end

-- purse_of is an account's money, or false where there is no such account. The parts of the ledger's entry come to be in it.
local function purse_of(base, account)
	local p = purses[account]
	if p == nil then
		local money = call('HGET', base .. 'wallet:' .. account, 'money')
		if money then
			local available, held, captured, seq = string.match(money, MONEY)
			p = {
				base = base, available = tonumber(available), held = tonumber(held), captured = tonumber(captured), seq = tonumber(seq),
				exact = #available < DIGITS and #held < DIGITS and #captured < DIGITS, before = available,
				entries = 0, parts = {}, pieces = 0, captures = false, added = false, entry = false,
			}
		end
		p = p or false
		purses[account] = p
	end
	return p
end

local function windows_of(here, app)
	local w = here.windows[app]
	if not w then
		w = read_windows(here.base, app)
		here.windows[app], windows[#windows + 1] = w, w
	end
	return w
end
