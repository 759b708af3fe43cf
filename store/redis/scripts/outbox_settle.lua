-- Ends a claim. ARGV: the event's id, the claim's token, the result, when the event is
-- due again, the error, and the lifetime of dead letters. What was settled has no
-- token any more.
local id, token, result, due, reason, lifetime = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7])
local key = event_key(id)
local event = redis.call('HMGET', key, 'seq', 'app', 'state', 'token', 'due')
if not event[1] or event[3] == 'quarantined' then
	return
end
local app, member = event[2], event[1] .. id
if result == 'delivered' then
	redis.call('UNLINK', key)
	redis.call('ZREM', base .. 'events', id)
	leave(app, member)
	if event[3] == 'dead' then
		redis.call('ZREM', base .. 'dead:' .. app, member)
		order_graves(app)
	end
elseif event[4] ~= token or event[3] ~= 'pending' then
	return
elseif result == 'returned' then
	redis.call('HDEL', key, 'token')
	unclaim(app, member, event[5])
elseif result == 'failed' then
	redis.call('HINCRBY', key, 'attempts', 1)
	redis.call('HSET', key, 'due', due, 'error', reason)
	redis.call('HDEL', key, 'token')
	unclaim(app, member, due)
else
	redis.call('HINCRBY', key, 'attempts', 1)
	bury(app, member, reason, lifetime)
end
order_backlog(app)
