-- Pushes to a list, trims it to a length at the other end, and sets its time to live.
-- KEYS[1]; ARGV: time to live in milliseconds, 1 to renew it or 0 to leave an existing one, LPUSH or RPUSH, the length, the values.
for first = 5, #ARGV, 1000 do
  redis.call(ARGV[3], KEYS[1], unpack(ARGV, first, math.min(first + 999, #ARGV)))
end
if ARGV[3] == 'LPUSH' then
  redis.call('LTRIM', KEYS[1], 0, ARGV[4] - 1)
else
  redis.call('LTRIM', KEYS[1], -ARGV[4], -1)
end
if ARGV[2] == '1' or redis.call('PTTL', KEYS[1]) < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return redis.call('LLEN', KEYS[1])
