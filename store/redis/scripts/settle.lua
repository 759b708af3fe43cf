-- Captures or releases a hold. The account, app and fee are given by the gateway that has
-- made the hold: where a failover has lost the hold, the capture brings it back.
local id, outcome, message = ARGV[2], ARGV[3], ARGV[4]
local account, app, fee = ARGV[5], ARGV[6], ARGV[7]
if outcome == 'capture' and account ~= '' and redis.call('EXISTS', base .. 'hold:' .. id) == 0 then
	local w = wallet(account)
	if w and not make_hold(w, id, fee, app, message) then
		return redis.error_reply(NO_FIT)
	end
end
return settle(id, outcome, message)
