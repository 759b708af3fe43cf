-- Returns those ids that are of dead letters in this place. ARGV: the ids.
local dead = {}
for i = 2, #ARGV do
	if redis.call('HGET', event_key(ARGV[i]), 'state') == 'dead' then
		table.insert(dead, ARGV[i])
	end
end
return dead
