-- Gives back a hold whose making was not answered for. One that is not there may
-- be made yet, by a script that Redis has not run: that one is refused then.
for i = 2, #ARGV do
	local key = base .. 'hold:' .. ARGV[i]
	local state = redis.call('HGET', key, 'state')
	if not state then
		redis.call('HSET', key, 'state', 'forsaken')
		redis.call('EXPIRE', key, 3600)
	elseif state == 'open' then
		settle(ARGV[i], 'release', '')
	end
end
return 1
