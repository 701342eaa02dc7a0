#!lua flags=allow-oom
-- Notes that a chat's failed queue holds something, after it was pushed.
-- KEYS: index. ARGV: chat.
-- The score always changes, so that whoever holds the lease and saw the list empty before can't drop the member; and a score in
-- the future (a lease, a back-off) hardly moves: 2^-10 ms is exact at this size, however many pushes there are.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local score = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or '-1')
if score >= now then score = score + 1 / 1024 else score = now end
redis.call('ZADD', KEYS[1], string.format('%.17g', score), ARGV[1])
return 1
