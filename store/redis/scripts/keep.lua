-- Keeps a copy of a grant at KEYS[1], unless there is one, up to ARGV[3], in
-- microseconds of Redis's clock: a copy that comes late, because Redis stood still or the way
-- to it was slow, is not believed longer for that. Without ARGV[3], tells the time.
if ARGV[3] == '' then
	return digits(real)
end
local left = math.floor((tonumber(ARGV[3]) - real) / 1000)
if left > 0 then
	redis.call('SET', KEYS[1], ARGV[2], 'NX', 'PX', digits(left))
end
return 'kept'
