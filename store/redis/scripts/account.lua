-- Creates an account with an empty wallet, in the place that KEYS[1] is the base of.
-- ARGV: account, name, currency, created, number. The number is new for each call
-- that creates, so that the same call is recognized when its answer was lost.
local key = base .. 'wallet:' .. ARGV[2]
if redis.call('HEXISTS', key, 'currency') == 1 then
	return redis.call('HGET', key, 'n') == ARGV[6] and 'created' or 'exists'
end
redis.call('HSETNX', key, 'money', '0 0 0 0')
for _, field in ipairs({ 'credited', 'total', 'version' }) do
	redis.call('HSETNX', key, field, '0')
end
redis.call('HSET', key, 'name', ARGV[3], 'currency', ARGV[4], 'created', ARGV[5], 'n', ARGV[6])
return 'created'
