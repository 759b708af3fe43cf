-- One admission of nginx with Lua: both windows, which begin with their first request,
-- and the balance. 0: let through; 1, 2: over the limit; 3: no balance.
local second = tonumber(redis.call("GET", KEYS[1]) or "0")
local minute = tonumber(redis.call("GET", KEYS[2]) or "0")
if minute >= tonumber(ARGV[2]) then
	return 2
end
if second >= tonumber(ARGV[1]) then
	return 1
end
if tonumber(redis.call("GET", KEYS[3]) or "0") <= 0 then
	return 3
end
if redis.call("INCR", KEYS[1]) == 1 then
	redis.call("PEXPIRE", KEYS[1], 1000)
end
if redis.call("INCR", KEYS[2]) == 1 then
	redis.call("PEXPIRE", KEYS[2], 60000)
end
redis.call("DECRBY", KEYS[3], ARGV[3])
return 0
