-- The two rate windows of an app: exact for limits up to 127, and never counting too few. A window
-- is runs of admissions that followed one another, each known by the time of its
-- newest one, and gone when that is out of the window. The newest run is in
-- the header, those before it in a ring. All of an app is one string:
--
--   header of the second, header of the minute, ring of the second, ring of the minute
--
-- with 25 bytes a header and 192 runs of 10 bytes a ring: under 4 KiB.
local HEADER, RUNS, RUN = 25, 192, 10
local FORMAT, RUN_FORMAT = '>I2I2I4I7I3I7', '>I7I3'
-- A run has 1 of 127 parts of the limit, so that at most that is counted too many.
local PARTS = 127
-- A window that is not used is gone after this, in seconds.
local IDLE = 600

local function ring(w, i)
	return 2 * HEADER + w.index * RUNS * RUN + (i % RUNS) * RUN
end

-- run reads the run at place i of the ring.
local function run(w, i)
	local at = ring(w, i)
	return struct.unpack(RUN_FORMAT, redis.call('GETRANGE', w.key, at, at + RUN - 1))
end

-- expire forgets the runs that are out of the span that ends now.
local function expire(w)
	local past = w.now - w.span
	if w.newest <= past then
		w.head, w.closed, w.total, w.count = 0, 0, 0, 0
		return
	end
	while w.closed > 0 and w.oldest <= past do
		local _, count = run(w, w.head)
		w.total = w.total - count
		w.head, w.closed = (w.head + 1) % RUNS, w.closed - 1
		if w.closed > 0 then
			w.oldest = run(w, w.head)
		end
	end
end

local function read(key)
	local header = redis.call('GETRANGE', key, 0, 2 * HEADER - 1)
	local windows = {}
	for index = 0, 1 do
		local w = { key = key, index = index, span = index == 0 and 1e6 or 60e6 }
		if header == '' then
			w.head, w.closed, w.total, w.newest, w.count, w.oldest = 0, 0, 0, 0, 0, 0
		else
			w.head, w.closed, w.total, w.newest, w.count, w.oldest = struct.unpack(FORMAT, header, index * HEADER + 1)
		end
		windows[index + 1] = w
	end
	-- A clock that was set back a little stands still here, and is believed where
	-- it was set back by more than a window.
	local newest = math.max(windows[1].newest, windows[2].newest)
	local at = math.max(now, newest > now + 60e6 and 0 or newest)
	for _, w in ipairs(windows) do
		w.now = at
		if w.newest > at then
			w.head, w.closed, w.total, w.count = 0, 0, 0, 0
		end
		expire(w)
	end
	return windows
end

-- count adds one admission.
local function count(w, limit)
	local most = math.max(1, math.ceil(limit / PARTS))
	if w.count > 0 and w.count >= most and w.closed < RUNS then
		redis.call('SETRANGE', w.key, ring(w, w.head + w.closed), struct.pack(RUN_FORMAT, w.newest, w.count))
		if w.closed == 0 then
			w.oldest = w.newest
		end
		w.closed, w.count = w.closed + 1, 0
	end
	w.newest, w.count, w.total = w.now, w.count + 1, w.total + 1
end

local function write(windows)
	local header = ''
	for _, w in ipairs(windows) do
		header = header .. struct.pack(FORMAT, w.head, w.closed, w.total, w.newest, w.count, w.oldest)
	end
	redis.call('SETRANGE', windows[1].key, 0, header)
	redis.call('EXPIRE', windows[1].key, IDLE)
end
