-- One request that needs more than what is usual: amounts of many digits, a hold that was settled before or is not there,
-- a message that is known already, or a clock that was set back.
local kind, _, named, rest = struct.unpack(BUNDLE, ARGV[2])
if kind <= HOLD then
	local with_windows, _, per_second, per_minute, account, app, fee, at = struct.unpack(TERMS, ARGV[2], rest)
	local id = struct.unpack('>I4c0', ARGV[2], at)
	local w = with_windows == 1 and read_windows(base, app)
	if not make_hold(wallet(account), id, fee, app) then
		return redis.error_reply(NO_FIT)
	end
	if not w then
		return struct.pack('>c1I7I7', 'a', 0, 0)
	end
	count(w, per_second, per_minute, 1)
	write_windows(w)
	return struct.pack('>c1I7I7', 'a', per_second - w[TOTAL], per_minute - w[MINUTE_TOTAL])
end
local id, rest = struct.unpack('>I4c0', ARGV[2], rest)
local message = ''
if named == 1 then
	message, rest = struct.unpack('>I4c0', ARGV[2], rest)
end
-- Where a failover has lost a hold, its account, app and fee are given by the gateway that has made it, and the capture
-- brings it back.
if kind == CAPTURE and rest <= #ARGV[2] then
	local account, app, fee = struct.unpack(RECORD, ARGV[2], rest)
	local h, forsaken = hold_of(id)
	local w = not h and not forsaken and wallet(account)
	readable(message)
	if w and not make_hold(w, id, fee, app) then
		return redis.error_reply(NO_FIT)
	end
end
return settle(id, kind == CAPTURE and 'capture' or 'release', message)
