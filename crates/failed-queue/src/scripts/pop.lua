#!lua flags=allow-oom
-- Removes what was published from the head, and nothing else; remembers the last of it for a while.
-- KEYS: list, what was replayed last. ARGV: 1 for how many ms it is remembered, 2… the entries. Answers {removed, left}.
local removed = 0
for i = 2, #ARGV do
  if redis.call('LINDEX', KEYS[1], 0) ~= ARGV[i] then break end
  redis.call('LPOP', KEYS[1])
  removed = removed + 1
end
if removed > 0 then redis.call('SET', KEYS[2], ARGV[removed + 1], 'PX', ARGV[1]) end
return { removed, redis.call('LLEN', KEYS[1]) }
