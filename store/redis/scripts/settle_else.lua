local captures, id, message, account, app, fee = struct.unpack(REQUEST, ARGV[2])
if captures == 1 and account ~= '' and not redis.call('HGET', base .. 'hold:' .. id, 'state') then
	local w = wallet(account)
	if w and not make_hold(w, id, fee, app, message) then
		return redis.error_reply(NO_FIT)
	end
end
return settle(id, captures == 1 and 'capture' or 'release', message)
