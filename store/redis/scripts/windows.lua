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
--
-- Here both headers are one table, that of the minute six fields behind that of the second.
local HEADERS, RUNS, RUN, RUN_FORMAT = '>I2I2I4I7I3I7I2I2I4I7I3I7', 192, 10, '>I7I3'
local HEAD, CLOSED, TOTAL, NEWEST, COUNT, OLDEST = 1, 2, 3, 4, 5, 6
local MINUTE = 6
local MINUTE_TOTAL, MINUTE_COUNT = MINUTE + TOTAL, MINUTE + COUNT
local RINGS = 50 -- where the ring of the second begins; that of the minute is behind it
-- A run has 1 of 127 parts of the limit, so that at most that is counted too many.
local PARTS = 127
-- A window that is not used is gone after this, in seconds, or a minute earlier.
local IDLE = '660'

-- slide drops what is past of a window, that of the minute or the one at 0. It reads some runs of the ring at a time.
local function slide(w, m, past)
	if w[m + NEWEST] > w.at or w[m + NEWEST] <= past then
		w[m + HEAD], w[m + CLOSED], w[m + TOTAL], w[m + COUNT] = 0, 0, 0, 0
		return
	end
	while w[m + CLOSED] > 0 and w[m + OLDEST] <= past do
		local head = w[m + HEAD]
		local most, at = math.min(16, w[m + CLOSED], RUNS - head), RINGS + (m / MINUTE * RUNS + head) * RUN
		local runs = redis.call('GETRANGE', w.key, at, at + most * RUN - 1)
		for i = 0, most - 1 do
			local newest, count = struct.unpack(RUN_FORMAT, runs, i * RUN + 1)
			w[m + OLDEST] = newest
			if newest > past then
				return
			end
			w[m + TOTAL], w[m + HEAD], w[m + CLOSED] = w[m + TOTAL] - count, (w[m + HEAD] + 1) % RUNS, w[m + CLOSED] - 1
		end
	end
end

-- read_windows returns an app's windows as they are now.
local function read_windows(base, app)
	local key = base .. 'windows:' .. app
	local headers = redis.call('GETRANGE', key, '0', '49')
	if headers == '' then
		return { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, key = key, at = now, counted = false, renewed = false }
	end
	local w = { key = key, at = now, counted = false, renewed = false, struct.unpack(HEADERS, headers) } -- and behind them where it has read to
	-- A clock that was set back a little stands still here, and is believed where
	-- it was set back by more than a window.
	local newest = math.max(w[NEWEST], w[MINUTE + NEWEST])
	w.at = newest > now and newest <= now + 60e6 and newest or now
	slide(w, 0, w.at - 1e6)
	slide(w, MINUTE, w.at - 60e6)
	return w
end

-- count_in begins to count what is admitted now: a run that is complete is noted, to be written.
local function count_in(w, per_second, per_minute)
	local limit, at = per_second, w.at
	-- Once a minute is enough for what is to be there for some minutes.
	w.counted, w.renewed = true, w[MINUTE + TOTAL] == 0 or at - at % 60e6 > w[MINUTE + NEWEST]
	for m = 0, MINUTE, MINUTE do
		local newest, n, closed = w[m + NEWEST], w[m + COUNT], w[m + CLOSED]
		if n > 0 and n >= limit / PARTS and closed < RUNS then
			w.runs = w.runs or {}
			local place = m / MINUTE * RUNS + (w[m + HEAD] + closed) % RUNS
			w.runs[#w.runs + 1] = { RINGS + place * RUN, struct.pack(RUN_FORMAT, newest, n) }
			w[m + OLDEST] = closed == 0 and newest or w[m + OLDEST]
			w[m + CLOSED], w[m + COUNT] = closed + 1, 0
		end
		w[m + NEWEST] = at
		limit = per_minute
	end
end

-- count counts some requests in both windows. All that one run of a script admits is of one time, and so of one run.
local function count(w, per_second, per_minute, n)
	if n > 0 and not w.counted then
		count_in(w, per_second, per_minute)
	end
	w[TOTAL], w[COUNT] = w[TOTAL] + n, w[COUNT] + n
	w[MINUTE_TOTAL], w[MINUTE_COUNT] = w[MINUTE_TOTAL] + n, w[MINUTE_COUNT] + n
end

local function write_windows(w)
	for _, run in ipairs(w.runs or {}) do
		redis.call('SETRANGE', w.key, run[1], run[2])
	end
	redis.call('SETRANGE', w.key, '0', struct.pack(HEADERS, unpack(w, 1, 12)))
	if w.renewed then
		redis.call('EXPIRE', w.key, IDLE)
	end
end
