-- Writes to a key and sets its time to live, in one step: a writer that dies in between can't leave a key that never expires.
-- KEYS[1]; ARGV: time to live in milliseconds, 1 to renew it or 0 to leave an existing one, the command, its arguments behind the key.
-- Arguments are sent in portions, as Lua's stack holds 8000; of an even number, so that pairs stay together.
local answer = 0
for first = 4, #ARGV, 1000 do
  answer = answer + redis.call(ARGV[3], KEYS[1], unpack(ARGV, first, math.min(first + 999, #ARGV)))
end
if ARGV[2] == '1' or redis.call('PTTL', KEYS[1]) < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return answer
