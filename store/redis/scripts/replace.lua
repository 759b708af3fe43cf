-- Replaces the record at KEYS[1], which is ARGV[2], by ARGV[3]. No two records are
-- the same, so a record that is ARGV[3] already was written by this very call.
local record = redis.call('GET', KEYS[1])
if record == ARGV[2] then
	redis.call('SET', KEYS[1], ARGV[3])
	return 'replaced'
end
return record == ARGV[3] and 'replaced' or 'changed'
