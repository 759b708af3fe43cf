-- Moves a wallet to the total that the Core Service names.
local account, currency, total, version, id = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local w = wallet(account)
if not w then
	return 'no_account'
elseif w.currency ~= currency then
	return 'conflict'
end
-- newer compares two positive whole numbers, which Lua's own cannot beyond 2^53.
local function newer(a, b)
	return #a > #b or #a == #b and a > b
end
local f = redis.call('HMGET', base .. 'wallet:' .. account, 'total', 'version')
if not newer(version, f[2] or '0') then
	return 'old'
end
local difference = add(total, minus(f[1] or '0'))
if not difference then
	return 'overflow'
end
if difference ~= '0' then
	local available, credited = add(w.available, difference), add(w.credited, difference)
	if not available or not credited then
		return 'overflow'
	end
	sound(account)
	enter(w, 'credit', id, difference, '', '')
	w.available, w.credited = available, credited
	save(w)
end
redis.call('HSET', base .. 'wallet:' .. account, 'total', total, 'version', version)
return 'followed'
