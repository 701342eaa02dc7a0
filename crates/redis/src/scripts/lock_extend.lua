-- Begins a lock's life anew, if it is this owner's. KEYS[1]; ARGV: the owner's token, life in milliseconds.
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0
