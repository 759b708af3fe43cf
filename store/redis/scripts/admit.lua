-- Admits a request: both windows, then the balance, then the hold. An app whose
-- windows are in another place than the account's money is admitted in steps: see
-- admission.go.
local mode, with_windows, with_money = ARGV[2], ARGV[3] == '1', ARGV[4] == '1'
local app, account = ARGV[5], ARGV[6]
local per_second, per_minute = tonumber(ARGV[7]), tonumber(ARGV[8])
local fee, id = ARGV[9], ARGV[10]

local verdict, windows = 'admitted', nil
local left = { 0, 0 }
if with_windows then
	windows = read(base .. 'windows:' .. app)
	left = { math.max(0, per_second - windows[1].total), math.max(0, per_minute - windows[2].total) }
	if left[2] == 0 then
		verdict = 'over_minute'
	elseif left[1] == 0 then
		verdict = 'over_second'
	end
end
if with_money and id ~= '' then
	local made = redis.call('HGET', base .. 'hold:' .. id, 'state')
	if made == 'forsaken' then
		verdict = 'forsaken'
	elseif made then
		verdict = 'repeated'
	end
end
local w
if with_money and verdict == 'admitted' then
	w = wallet(account)
	if not w then
		verdict = 'no_account'
	elseif w.available == '0' or string.sub(w.available, 1, 1) == '-' then
		verdict = 'no_balance'
	end
end
if verdict ~= 'admitted' or mode == 'check' then
	return { verdict, left[1], left[2] }
end
if with_money and mode == 'hold' and not make_hold(w, id, fee, app, '') then
	return redis.error_reply(NO_FIT)
end
if with_windows then
	count(windows[1], per_second)
	count(windows[2], per_minute)
	write(windows)
	left = { left[1] - 1, left[2] - 1 }
end
return { verdict, left[1], left[2] }
