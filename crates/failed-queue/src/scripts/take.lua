#!lua flags=allow-oom
-- Takes one chat for a while, due or not. KEYS: index. ARGV: 1 chat, 2 for how many ms. Answers the lease's end.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local lease = string.format('%.0f', now + tonumber(ARGV[2]))
redis.call('ZADD', KEYS[1], lease, ARGV[1])
return lease
