-- Makes dead letters of an app pending again. ARGV: the app, the time up to which
-- they were given up, nothing for now, and how many at the most. Returns that time,
-- how many there were, and how many of those that it has looked at.
local app, began, most = ARGV[2], ARGV[3] ~= '' and ARGV[3] or digits(now), tonumber(ARGV[4])
local dead = base .. 'dead:' .. app
local found, revived = redis.call('ZRANGEBYSCORE', dead, '-inf', began, 'LIMIT', 0, most), 0
for _, member in ipairs(found) do
	if revive(id_of(member)) then
		revived = revived + 1
	else -- Redis has deleted it
		redis.call('ZREM', dead, member)
		redis.call('ZREM', base .. 'events', id_of(member))
	end
end
order_backlog(app)
order_graves(app)
return {began, revived, #found}
