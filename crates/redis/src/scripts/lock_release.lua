-- Releases a lock, if it is this owner's. KEYS[1]; ARGV: the owner's token.
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
