-- Tells of holds, and then of messages, whether they are known here: account, app and
-- whether the hold is captured, or nothing. ARGV[2] is how many holds there are.
local found, holds = {}, tonumber(ARGV[2])
for i = 3, #ARGV do
	local f
	if i - 2 <= holds then
		f = redis.call('HMGET', base .. 'hold:' .. ARGV[i], 'account', 'app', 'state', 'again')
		f = f[1] and { f[1], f[2], (f[3] == 'capture' or f[4]) and 1 or 0 }
	else
		f = redis.call('HMGET', base .. 'message:' .. ARGV[i], 'account', 'app')
		f = f[1] and { f[1], f[2], 1 }
	end
	found[i - 2] = f or {}
end
return found
