-- Notes how far the ledgers of accounts are reported, and drops what is reported and
-- old. ARGV are pairs: an account, and the id of the last entry of its stream that is.
local function time(id)
	return tonumber(string.match(id, '^%d+'))
end

for i = 2, #ARGV, 2 do
	local account, last = ARGV[i], ARGV[i + 1]
	local ledger, key = base .. 'ledger:' .. account, base .. 'wallet:' .. account
	if time(redis.call('HGET', key, 'reported') or '0') <= time(last) then
		redis.call('HSET', key, 'reported', last)
		local newest = redis.call('XREVRANGE', ledger, '+', '-', 'COUNT', 1)
		if #newest == 0 or newest[1][1] == last then
			redis.call('SREM', base .. 'unreported', account)
		end
		redis.call('XTRIM', ledger, 'MINID', '~', digits(math.min(time(last), real - LIFETIME * 1000000)))
	end
end
return 1
