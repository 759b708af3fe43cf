-- Gives back a hold whose making was not answered for. One that is not there may
-- be made yet, by a script that Redis has not run: that one is refused then.
-- Those that cannot be given back now, which has written nothing, are answered.
local failed = {}
for i = 2, #ARGV do
	local id = ARGV[i]
	local ok, result = pcall(function()
		local h, forsaken = hold_of(id)
		if not h and not forsaken then
			put(settled_in(id), id, 'f')
		elseif h and h.state == 'o' then
			return settle(id, 'release', '')
		end
	end)
	if not ok or type(result) == 'table' then
		failed[#failed + 1] = id
	end
end
return failed
