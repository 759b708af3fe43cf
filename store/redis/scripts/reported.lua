-- Notes how far an account's ledger is reported, and drops what is reported and
-- old. ARGV[3] is the id of the last entry of the stream that is.
local account, last = ARGV[2], ARGV[3]
local function time(id)
	return tonumber(string.match(id, '^%d+'))
end

local ledger, key = base .. 'ledger:' .. account, base .. 'wallet:' .. account
if time(redis.call('HGET', key, 'reported') or '0') > time(last) then
	return 0
end
redis.call('HSET', key, 'reported', last)
local newest = redis.call('XREVRANGE', ledger, '+', '-', 'COUNT', 1)
if #newest == 0 or newest[1][1] == last then
	redis.call('SREM', base .. 'unreported', account)
end
redis.call('XTRIM', ledger, 'MINID', '~', digits(math.min(time(last), real - LIFETIME * 1000000)))
return 1
