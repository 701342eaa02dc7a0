-- Fills an entry, if the lease on it is still the caller's: neither expired nor deleted by an invalidation.
--
-- KEYS: the entry, its lease. ARGV: token, kind, payload, ms until it is stale, ms until it expires. Answers 1 if filled.

if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('SET', KEYS[1], ARGV[2] .. struct.pack('>I8I8', now + ARGV[4], now) .. ARGV[3], 'PX', ARGV[5])
redis.call('DEL', KEYS[2])
return 1
