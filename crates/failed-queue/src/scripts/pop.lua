#!lua flags=allow-oom
-- Removes what was published from the head, and nothing else. KEYS: list. ARGV: the entries. Answers {removed, left}.
local removed = 0
for i = 1, #ARGV do
  if redis.call('LINDEX', KEYS[1], 0) ~= ARGV[i] then break end
  redis.call('LPOP', KEYS[1])
  removed = removed + 1
end
return { removed, redis.call('LLEN', KEYS[1]) }
