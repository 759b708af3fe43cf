-- Captures or releases a hold. The account, app and fee are given by the gateway that has
-- made the hold: where a failover has lost the hold, the capture brings it back.
local id, outcome, message = ARGV[2], ARGV[3], ARGV[4]
local account, app, fee = ARGV[5], ARGV[6], ARGV[7]
if outcome == 'capture' and account ~= '' and redis.call('EXISTS', base .. 'hold:' .. id) == 0 and wallet(account) then
	local w = wallet(account)
	local available, held = add(w.available, minus(fee)), add(w.held, fee)
	if not available or not held then
		return redis.error_reply('ERR a wallet would not fit')
	end
	sound(account, id, message)
	enter(w, 'hold', id, fee, available, '', app)
	w.available, w.held = available, held
	save(w)
	redis.call('HSET', base .. 'hold:' .. id, 'state', 'open', 'account', account, 'app', app, 'fee', fee)
end
return settle(id, outcome, message)
