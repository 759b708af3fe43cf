-- Settles those of some open holds, from the cursor ARGV[5] on, that were made before a time and have no outcome. One
-- that cannot be settled holds up no other. Returns how many were settled, how many cannot be, and where to go on: 0 at the end.
local before, outcome, most, cursor = tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]
local found = redis.call('HSCAN', base .. 'open', cursor, 'COUNT', most)
local settled, broken = 0, 0
for i = 1, #found[2], 2 do
	local id, value = found[2][i], found[2][i + 1]
	local ok, result = pcall(function()
		return id ~= '' and struct.unpack('>I7', value) < before and settle(id, outcome, '')
	end)
	if not ok or type(result) == 'table' then
		broken = broken + 1
	elseif result == 'settled' then
		settled = settled + 1
	end
end
return { settled, broken, found[1] }
