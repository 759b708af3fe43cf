-- One request that needs more than what is usual: amounts of many digits, a hold that was settled before or is not there,
-- a message that is known already, or a clock that was set back.
local q = requests[1]
if q[1] <= HOLD then
	local _, with_windows, _, per_second, per_minute, account, app, fee, id = unpack(q)
	local w = with_windows == 1 and read_windows(app)
	if not make_hold(wallet(account), id, fee, app) then
		return redis.error_reply(NO_FIT)
	end
	if not w then
		return struct.pack('>c1I7I7', 'a', 0, 0)
	end
	count(w, per_second, per_minute)
	write_windows(w)
	return struct.pack('>c1I7I7', 'a', per_second - w[TOTAL], per_minute - w[MINUTE + TOTAL])
end
local kind, id, message = unpack(q)
-- The account, app and fee are given by the gateway that has made the hold: where a failover has lost
-- the hold, the capture brings it back.
local account, app, fee = struct.unpack(RECORD, ARGV[2], 10 + #id + #message)
if kind == CAPTURE and account ~= '' then
	local h, forsaken = hold_of(id)
	local w = not h and not forsaken and wallet(account)
	readable(message)
	if w and not make_hold(w, id, fee, app) then
		return redis.error_reply(NO_FIT)
	end
end
return settle(id, kind == CAPTURE and 'capture' or 'release', message)
