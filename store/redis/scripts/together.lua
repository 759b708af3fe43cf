-- One request is done by one, which may fail, and gives no answer where it is to be done in
-- the way that is below. Of several, which came together, those have an empty answer, and come again
-- alone. done writes what is written once for all of them.
if #ARGV == 2 then
	local reply = one(ARGV[2])
	done()
	if reply then
		return reply
	end
else
	local replies = {}
	for i = 2, #ARGV do
		local ok, reply = pcall(one, ARGV[i])
		replies[i - 1] = ok and reply or ''
	end
	done()
	return replies
end
