local _, with_windows, _, app, account, fee, id, per_second, per_minute = struct.unpack(REQUEST, ARGV[2])
local at = with_windows == 1 and turn_to(base .. 'windows:' .. app)
if not make_hold(wallet(account), id, fee, app, '') then
	return redis.error_reply(NO_FIT)
end
local reply = admitted(at, per_second, per_minute)
leave_windows()
return reply
