-- Settles some of the holds that were made before a time and have no outcome. One
-- that cannot be settled holds up no other: as many as ARGV[5] are passed over. Returns
-- how many were settled, how many were looked at, and how many cannot be settled.
local before, outcome, most, skip = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local ids = redis.call('ZRANGEBYSCORE', base .. 'open', '-inf', '(' .. before, 'LIMIT', skip, most)
local settled, broken = 0, 0
for _, id in ipairs(ids) do
	local ok, result = pcall(settle, id, outcome, '')
	if not ok or type(result) == 'table' then
		broken = broken + 1
	elseif result == 'settled' then
		settled = settled + 1
	else
		redis.call('ZREM', base .. 'open', id)
	end
end
return { settled, #ids, broken }
