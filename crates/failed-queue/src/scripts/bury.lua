#!lua flags=allow-oom
-- Moves the head to the dead list, if it is this entry. KEYS: list, dead list. ARGV: 1 entry, 2 what the dead list shall hold.
-- Answers {moved, left}.
local moved = 0
if redis.call('LINDEX', KEYS[1], 0) == ARGV[1] then
  redis.call('RPUSH', KEYS[2], ARGV[2])
  redis.call('LPOP', KEYS[1])
  moved = 1
end
return { moved, redis.call('LLEN', KEYS[1]) }
