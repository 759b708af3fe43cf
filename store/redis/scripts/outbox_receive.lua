-- Stores events, those that are there already excepted. ARGV: how many quarantined events
-- are kept, how large they may be together, and then for each event its id, app,
-- name, state, error and payload.
local most, largest = tonumber(ARGV[2]), tonumber(ARGV[3])

-- Numbers are the time of arrival by Redis's own clock, but never the same twice, so
-- that they tell the order of events in different places, too.
local last = tonumber(redis.call('GET', base .. 'last_event') or '0')

local function quarantine(id, seq, payload)
	redis.call('ZADD', base .. 'quarantined', seq, id)
	redis.call('INCRBY', base .. 'quarantined_size', #payload)
end

local function trim()
	local quarantined, total = base .. 'quarantined', base .. 'quarantined_size'
	local number, size = redis.call('ZCARD', quarantined), tonumber(redis.call('GET', total) or '0')
	while number > 0 and (number > most or size > largest) do
		local id = redis.call('ZPOPMIN', quarantined)[1]
		number, size = number - 1, size - redis.call('HSTRLEN', event_key(id), 'payload')
		redis.call('UNLINK', event_key(id))
		redis.call('ZREM', base .. 'events', id)
	end
	redis.call('SET', total, digits(size))
end

local trims = false
for i = 4, #ARGV, 6 do
	local id, app, name, state, reason, payload = unpack(ARGV, i, i + 5)
	if redis.call('EXISTS', event_key(id)) == 0 then
		last = math.max(last + 1, real)
		local seq = string.format('%016.0f', last)
		redis.call('SET', base .. 'last_event', seq)
		redis.call('ZADD', base .. 'events', seq, id)
		local event = {'seq', seq, 'app', app, 'name', name, 'state', state, 'received', digits(now), 'error', reason, 'payload', payload}
		if state == 'quarantined' then
			quarantine(id, seq, payload)
			trims = true
		else
			redis.call('ZADD', base .. 'pending:' .. app, digits(now), seq .. id)
			redis.call('ZADD', base .. 'backlog', 'LT', digits(now), app)
			table.insert(event, 'due')
			table.insert(event, digits(now))
		end
		-- Last, because it is what says that the event is there.
		redis.call('HSET', event_key(id), unpack(event))
	end
end
if trims then
	trim()
end
