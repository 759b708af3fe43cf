-- The outbox of a place. An event is a hash; its app, id and place in the order of
-- arrival never change. The indexes name it by its number, which sorts those that
-- are due at the same time, and its id.
--   events        all of the place: id by number
--   pending:APP   nobody has claimed them: by when they are due
--   held:APP      they are claimed: by when they are due
--   claimed:APP   the same: by when the claim runs out
--   backlog       apps with either: by when the first is due
--   dead:APP      dead letters: by when they were given up
--   graves        apps with any: by when the first was given up
--   quarantined   by number; quarantined_size is that of their payloads

-- GRACE is how much longer Redis itself keeps a dead letter than the gateways do, in
-- seconds: by then they have taken it out of the indexes.
local GRACE = 24 * 3600

local function event_key(id)
	return base .. 'event:' .. id
end

local function id_of(member)
	return string.sub(member, 17)
end

-- first is the least score of an index, if it has any.
local function first(key)
	return tonumber(redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2])
end

-- order notes when the first of an app is due, in an index of apps that has no entry
-- without one.
local function order(index, app, score)
	if score then
		redis.call('ZADD', base .. index, digits(score), app)
	else
		redis.call('ZREM', base .. index, app)
	end
end

local function order_backlog(app)
	local pending, held = first(base .. 'pending:' .. app), first(base .. 'held:' .. app)
	order('backlog', app, pending and held and math.min(pending, held) or pending or held)
end

local function order_graves(app)
	order('graves', app, first(base .. 'dead:' .. app))
end

-- leave takes an event out of what is to be delivered.
local function leave(app, member)
	redis.call('ZREM', base .. 'pending:' .. app, member)
	redis.call('ZREM', base .. 'held:' .. app, member)
	redis.call('ZREM', base .. 'claimed:' .. app, member)
end

-- unclaim gives back what is claimed.
local function unclaim(app, member, due)
	leave(app, member)
	redis.call('ZADD', base .. 'pending:' .. app, due, member)
end

-- expire gives back all whose claims have run out. They are no more than the gateways
-- deliver at the same time.
local function expire(app)
	for _, member in ipairs(redis.call('ZRANGEBYSCORE', base .. 'claimed:' .. app, '-inf', digits(now))) do
		unclaim(app, member, redis.call('ZSCORE', base .. 'held:' .. app, member) or digits(now))
	end
end

-- bury makes a dead letter of a pending event. The caller orders the backlog.
local function bury(app, member, reason, lifetime)
	local key = event_key(id_of(member))
	leave(app, member)
	redis.call('ZADD', base .. 'dead:' .. app, digits(now), member)
	redis.call('ZADD', base .. 'graves', 'LT', digits(now), app)
	redis.call('HSET', key, 'state', 'dead', 'error', reason)
	redis.call('HDEL', key, 'due', 'token')
	redis.call('EXPIRE', key, digits(math.ceil(lifetime / 1000000) + GRACE))
end

-- revive makes a dead letter pending again and returns its app, or nothing where it is
-- none. The caller orders the backlog and the graves.
local function revive(id)
	local key = event_key(id)
	local event = redis.call('HMGET', key, 'state', 'app', 'seq')
	if event[1] ~= 'dead' then
		return nil
	end
	local app, member = event[2], event[3] .. id
	redis.call('PERSIST', key)
	redis.call('HSET', key, 'state', 'pending', 'received', digits(now), 'due', digits(now))
	redis.call('HDEL', key, 'attempts')
	redis.call('ZREM', base .. 'dead:' .. app, member)
	redis.call('ZADD', base .. 'pending:' .. app, digits(now), member)
	return app
end

-- describe reads an event, if it is there: what the gateway reads in the same order.
local function describe(id, ...)
	local event = redis.call('HMGET', event_key(id), 'seq', 'app', 'name', 'state', 'attempts', 'received', 'due', 'error', ...)
	if not event[1] then
		return nil
	end
	table.insert(event, 1, id)
	return event
end
