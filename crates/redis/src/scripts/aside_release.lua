-- Releases a lease without a fill.
--
-- KEYS: the entry, its lease. ARGV: token, ms for which no caller gets the lease (0: the next caller gets it). Answers 1 if it
-- was the caller's.

if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return 0
end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[2])
else
  redis.call('SET', KEYS[2], '', 'PX', ARGV[2])
end
return 1
