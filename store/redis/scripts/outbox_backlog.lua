-- Returns the apps with pending events and when the first is due. In passing it deletes dead
-- letters that are too old, a hundred at a time. ARGV: their lifetime.
local before, left = digits(now - tonumber(ARGV[2])), 100
while left > 0 do
	local app = redis.call('ZRANGEBYSCORE', base .. 'graves', '-inf', '(' .. before, 'LIMIT', 0, 1)[1]
	if not app then
		break
	end
	local dead = base .. 'dead:' .. app
	local old = redis.call('ZRANGEBYSCORE', dead, '-inf', '(' .. before, 'LIMIT', 0, left)
	for _, member in ipairs(old) do
		redis.call('UNLINK', event_key(id_of(member)))
		redis.call('ZREM', base .. 'events', id_of(member))
		redis.call('ZREM', dead, member)
	end
	order_graves(app)
	left = left - math.max(#old, 1)
end

local backlog = redis.call('ZRANGE', base .. 'backlog', 0, -1, 'WITHSCORES')
for i = 2, #backlog, 2 do
	backlog[i] = digits(tonumber(backlog[i]))
end
return backlog
