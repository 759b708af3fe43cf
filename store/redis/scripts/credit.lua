-- Credits an account once for each operation.
local account, amount, operation = ARGV[2], ARGV[3], ARGV[4]
local w = wallet(account)
if not w then
	return { 'no_account' }
end
local credits = base .. 'credits:' .. account
local before = redis.call('HGET', credits, operation)
if not before then
	local available, credited = add(w.available, amount), add(w.credited, amount)
	if not available or not credited then
		return { 'overflow' }
	end
	sound(account)
	enter(w, 'credit', operation, amount, '', '')
	w.available, w.credited = available, credited
	save(w)
	redis.call('HSET', credits, operation, amount)
elseif before ~= amount then
	return { 'conflict' }
end
return { 'credited', w.available, w.held, w.captured }
