-- Claims events of an app. ARGV: the app, how many at the most, the lease, the size of
-- payloads that is enough, the token of the claim, and whether the claim may have been made
-- before without anybody having got it. Returns when it runs out, when the first of
-- what is left is due, and the events.
local app, most, lease, enough, token, again = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6], ARGV[7]
local pending, held, claimed = base .. 'pending:' .. app, base .. 'held:' .. app, base .. 'claimed:' .. app
expire(app)
if again == 'again' then
	for _, member in ipairs(redis.call('ZRANGE', claimed, 0, -1)) do
		local event = redis.call('HMGET', event_key(id_of(member)), 'token', 'due')
		if event[1] == token then
			unclaim(app, member, event[2])
		end
	end
end

local ends = digits(now + lease)
local reply, size = {ends, ''}, 0
local due = most > 0 and redis.call('ZRANGEBYSCORE', pending, '-inf', digits(now), 'WITHSCORES', 'LIMIT', 0, most) or {}
for i = 1, #due, 2 do
	if size >= enough then
		break
	end
	local member = due[i]
	local event = describe(id_of(member), 'payload')
	redis.call('ZREM', pending, member)
	if event and event[2] .. event[1] == member and event[5] == 'pending' then
		redis.call('ZADD', held, due[i + 1], member)
		redis.call('ZADD', claimed, ends, member)
		redis.call('HSET', event_key(event[1]), 'token', token)
		size = size + #event[10]
		table.insert(reply, event)
	end
end
order_backlog(app)
local left = first(pending)
if left then
	reply[2] = digits(left)
end
return reply
