-- Reads a page of events. ARGV: the number behind which to begin, the app and the state
-- of the events, nothing for any, how many to look at, and how many to return.
-- Returns the number of the last that was looked at, nothing where there are no
-- more, and the events.
local app, state, look, most = ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local found = redis.call('ZRANGEBYSCORE', base .. 'events', '(' .. ARGV[2], '+inf', 'WITHSCORES', 'LIMIT', 0, look)
local page = {#found == 2 * look and digits(tonumber(found[#found])) or ''}
for i = 1, #found, 2 do
	local event = describe(found[i])
	if event and (app == '' or event[3] == app) and (state == '' or event[5] == state) then
		table.insert(page, event)
		if #page > most then
			page[1] = digits(tonumber(found[i + 1]))
			break
		end
	end
end
return page
