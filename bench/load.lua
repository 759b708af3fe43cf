-- What wrk runs: requests from a file, one after the other, and one line of
-- figures at the end. REQUESTS names the file, SIZE is the length of each request
-- in it, and FIRST the place of the one to begin with. The first CONNECTIONS requests,
-- which is one for each, are spread over SPREAD milliseconds.
local size = tonumber(os.getenv("SIZE"))
local file = assert(io.open(os.getenv("REQUESTS"), "rb"))
file:setvbuf("full", 1048576)
local count = file:seek("end") / size
file:seek("set", tonumber(os.getenv("FIRST")) * size)

local function following()
	local r = file:read(size)
	if not r then
		file:seek("set", 0)
		r = file:read(size)
	end
	return r
end

if count == 1 then
	local only = following()
	request = function() return only end
else
	request = following
end

local spread = tonumber(os.getenv("SPREAD"))
local fresh = tonumber(os.getenv("CONNECTIONS"))
if spread > 0 then
	delay = function()
		if fresh <= 0 then
			return 0
		end
		fresh = fresh - 1
		return math.random(spread)
	end
end

function done(summary, latency)
	local e = summary.errors
	io.write(string.format("figures %d %d %d %d %d %d %d %d %d\n", summary.requests, summary.duration,
		e.connect, e.read, e.write, e.timeout, e.status, latency:percentile(50), latency:percentile(99)))
end
