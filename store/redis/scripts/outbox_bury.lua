-- Buries pending events of an app that nobody has claimed. ARGV: the app, before when they
-- were received, why, the lifetime of dead letters, how many to look at, and behind
-- which to begin, by when it was due and its name in the index. Returns how
-- many there were and the last that was looked at, nothing once that was all.
local app, before, reason, lifetime, most = ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local pending, rank = base .. 'pending:' .. app, 0
expire(app)
if ARGV[8] ~= '' then
	-- Where it is not there any more, it is put back to see where it was.
	local added = redis.call('ZADD', pending, 'NX', ARGV[7], ARGV[8])
	rank = redis.call('ZRANK', pending, ARGV[8])
	if added == 1 then
		redis.call('ZREM', pending, ARGV[8])
	else
		rank = rank + 1
	end
end

local found, buried = redis.call('ZRANGE', pending, rank, rank + most - 1, 'WITHSCORES'), 0
for i = 1, #found, 2 do
	local received = redis.call('HGET', event_key(id_of(found[i])), 'received')
	if not received then
		redis.call('ZREM', pending, found[i])
	elseif tonumber(received) < before then
		bury(app, found[i], reason, lifetime)
		buried = buried + 1
	end
end
order_backlog(app)
if #found < 2 * most then
	return {buried}
end
return {buried, digits(tonumber(found[#found])), found[#found - 1]}
