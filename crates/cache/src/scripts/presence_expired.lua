#!lua
-- Expired devices, oldest first; then devices whose expiry lies further ahead than any may, from before the clock stepped back.
-- KEYS: 1 every device by expiry, 2 those of one user, if one is asked for. ARGV: 1 ms that a device counts as connected, 2 how many at
-- most, 3 a device of that user. Answers {0 if that one is in either no more, else 1, devices}.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local known = 1
for _, key in ipairs(KEYS[2] and KEYS or {}) do
  if not redis.call('ZSCORE', key, ARGV[3]) then known = 0 end
end
local expired = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[2])
if #expired > 0 then return { known, expired } end
return { known, redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. (now + tonumber(ARGV[1])), '+inf', 'LIMIT', 0, ARGV[2]) }
