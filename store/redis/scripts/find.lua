-- Tells of holds, and then of messages, whether they are known here: account, app and
-- whether the hold is captured, or nothing. ARGV[2] is how many holds there are.
local found, holds = {}, tonumber(ARGV[2])
for i = 3, #ARGV do
	local f
	if i - 2 <= holds then
		local h = hold_of(ARGV[i])
		f = h and { h.account, h.app, (h.state == 'c' or h.state == 'a') and 1 or 0 }
	else
		local m = message_of(ARGV[i])
		f = m and m.account ~= '' and { m.account, m.app, 1 }
	end
	found[i - 2] = f or {}
end
return found
