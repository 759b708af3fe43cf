-- Gives back a hold whose making was not answered for. One that is not there may
-- be made yet, by a script that Redis has not run: that one is refused then.
-- Those that cannot be given back now, which has written nothing, are answered.
local failed = {}
for i = 2, #ARGV do
	local key = base .. 'hold:' .. ARGV[i]
	local state = redis.pcall('HGET', key, 'state')
	if type(state) == 'table' then
		failed[#failed + 1] = ARGV[i]
	elseif not state then
		redis.call('HSET', key, 'state', 'forsaken')
		redis.call('EXPIRE', key, 3600)
	elseif state == 'open' then
		local ok, result = pcall(settle, ARGV[i], 'release', '')
		if not ok or type(result) == 'table' then
			failed[#failed + 1] = ARGV[i]
		end
	end
end
return failed
