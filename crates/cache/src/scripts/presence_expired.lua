#!lua
-- Devices that count as connected no more, oldest first; then such as would for longer than any may, from before the clock went back.
-- KEYS: every device by expiry. ARGV: 1 ms that a device counts as connected, 2 how many at most.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local expired = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[2])
if #expired > 0 then return expired end
return redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. (now + tonumber(ARGV[1])), '+inf', 'LIMIT', 0, ARGV[2])
