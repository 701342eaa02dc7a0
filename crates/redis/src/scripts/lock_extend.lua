-- Renews a lock's time to live, if it is this owner's. KEYS[1]; ARGV: the owner's token, time to live in milliseconds.
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0
