-- What every script begins with. A place's keys begin with base, so that all of
-- them are in one slot. (A run of several sends may be of several places: see send.lua.)
-- Money is written in decimal digits, as Redis has it: Lua's numbers are exact up to 2^53 only.
local base = KEYS[1]
local clock = redis.call('TIME')
local real = clock[1] * 1000000 + clock[2]
-- now is the time in microseconds: Redis's, or that of a test.
local now = ARGV[1] ~= '' and tonumber(ARGV[1]) or real

-- digits writes a whole number that Lua would print in another way.
local function digits(n)
	return string.format('%.0f', n)
end
