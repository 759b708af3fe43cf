-- Moves a wallet to the total that the Core Service names.
local account, currency, total, version, id = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local w = wallet(account)
if not w then
	return 'no_account'
elseif w.currency ~= currency then
	return 'conflict'
end
local f = redis.call('HMGET', base .. 'wallet:' .. account, 'total', 'version')
if tonumber(f[2] or '0') >= tonumber(version) then
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
	sound(account, '', '')
	enter(w, 'credit', id, difference, available, '', '')
	w.available, w.credited = available, credited
	save(w)
end
redis.call('HSET', base .. 'wallet:' .. account, 'total', total, 'version', version)
return 'followed'
