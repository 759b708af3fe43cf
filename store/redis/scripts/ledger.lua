local appended = 0

-- append writes an entry of an account's ledger, whose id in the stream is the time, or as many
-- microseconds later as this script has written entries. It tells whether it could: the clock may
-- have been set back. (t is the time by the clock of a test.)
local function append(account, kind, id, amount, balance, message, app)
	local entry
	if ARGV[1] == '' then
		entry = redis.pcall('XADD', base .. 'ledger:' .. account, string.format('%d-0', real + appended),
			'k', kind, 'o', id, 'a', amount, 'b', balance, 'm', message, 'p', app)
	else
		entry = redis.pcall('XADD', base .. 'ledger:' .. account, string.format('%d-0', real + appended),
			'k', kind, 'o', id, 'a', amount, 'b', balance, 'm', message, 'p', app, 't', ARGV[1])
	end
	appended = appended + 1
	return type(entry) == 'string'
end
