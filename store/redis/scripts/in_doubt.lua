-- Settles some of the holds that were made before a time and have no outcome.
local before, outcome, most = ARGV[2], ARGV[3], ARGV[4]
local ids = redis.call('ZRANGEBYSCORE', base .. 'open', '-inf', '(' .. before, 'LIMIT', 0, most)
local settled = 0
for _, id in ipairs(ids) do
	local result = settle(id, outcome, '')
	if type(result) == 'table' then
		return result
	end
	if result == 'settled' then
		settled = settled + 1
	else
		redis.call('ZREM', base .. 'open', id)
	end
end
return { settled, #ids }
