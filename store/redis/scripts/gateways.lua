-- Notes that a gateway is there, or gone, and counts those that are.
local key, id, gone = base .. 'gateways', ARGV[2], ARGV[3] == '1'
if gone then
	redis.call('ZREM', key, id)
else
	redis.call('ZADD', key, digits(real), id)
end
redis.call('ZREMRANGEBYSCORE', key, '-inf', digits(real - 10000000))
redis.call('EXPIRE', key, 60)
return redis.call('ZCARD', key)
