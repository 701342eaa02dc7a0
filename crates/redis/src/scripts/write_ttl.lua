-- Writes to a key and gives it a life, in one step: no key that was to expire stays because its writer died in between.
-- KEYS[1]; ARGV: life in milliseconds, 1 to begin it anew or 0 to keep one that it has, the command, its arguments behind the key.
-- Arguments go in portions, for Lua's stack holds 8000; an even number of them, for pairs stay together.
local answer = 0
for first = 4, #ARGV, 1000 do
  answer = answer + redis.call(ARGV[3], KEYS[1], unpack(ARGV, first, math.min(first + 999, #ARGV)))
end
if ARGV[2] == '1' or redis.call('PTTL', KEYS[1]) < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return answer
