-- The two rate windows of an app: exact for limits up to 127, and never counting too few. A window
-- is runs of admissions that followed one another, each known by the time of its
-- newest one, and gone when that is out of the window. The newest run is in
-- the header, those before it in a ring. All of an app is one string:
--
--   header of the second, header of the minute, ring of the second, ring of the minute
--
-- with 25 bytes a header and 192 runs of 10 bytes a ring: under 4 KiB. A header has the
-- head of the ring, how many runs are in it, the sum of all, the time and the number
-- of the newest run, and the time of the oldest one in the ring.
local HEADERS, RUNS, RUN, RUN_FORMAT = '>I2I2I4I7I3I7I2I2I4I7I3I7', 192, 10, '>I7I3'
local SECOND, MINUTE = 50, 1970 -- where the rings begin
-- A run has 1 of 127 parts of the limit, so that at most that is counted too many.
local PARTS = 127
-- A window that is not used is gone after this, in seconds, or a minute earlier.
local IDLE = '660'

-- forget drops the runs of a ring that are past. It reads some of them at a time.
local function forget(key, ring, past, head, closed, total, oldest)
	while closed > 0 and oldest <= past do
		local most = math.min(16, closed, RUNS - head)
		local runs = redis.call('GETRANGE', key, ring + head * RUN, ring + (head + most) * RUN - 1)
		for i = 0, most - 1 do
			local newest, count = struct.unpack(RUN_FORMAT, runs, i * RUN + 1)
			oldest = newest
			if newest > past then
				return head, closed, total, oldest
			end
			total, head, closed = total - count, (head + 1) % RUNS, closed - 1
		end
	end
	return head, closed, total, oldest
end
