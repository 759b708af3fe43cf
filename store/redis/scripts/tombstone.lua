-- Puts the tombstone ARGV[2] in the place of a grant's copy, for ARGV[3] milliseconds.
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 'buried'
