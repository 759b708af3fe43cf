-- append writes an entry of an account's ledger, whose id in the stream is the time. It tells
-- whether it could: the clock may have been set back. (t is the time by the clock of a test.)
local function append(account, kind, id, amount, balance, message, app)
	local entry
	if ARGV[1] == '' then
		entry = redis.pcall('XADD', base .. 'ledger:' .. account, string.format('%d-0', real),
			'k', kind, 'o', id, 'a', amount, 'b', balance, 'm', message, 'p', app)
	else
		entry = redis.pcall('XADD', base .. 'ledger:' .. account, string.format('%d-0', real),
			'k', kind, 'o', id, 'a', amount, 'b', balance, 'm', message, 'p', app, 't', ARGV[1])
	end
	return type(entry) == 'string'
end
