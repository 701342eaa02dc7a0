#!lua flags=allow-oom
-- Ends a lease. KEYS: index. ARGV: 1 chat, 2 lease end, 3 ms until the next attempt, or '' if the list was seen empty.
-- Answers 1 if the lease was still held.
local score = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or '-1')
local held = score == tonumber(ARGV[2])
if ARGV[3] == '' then
  -- Touched since: something was pushed, or somebody else holds it.
  if held then redis.call('ZREM', KEYS[1], ARGV[1]) end
else
  local clock = redis.call('TIME')
  local next_attempt = clock[1] * 1000 + math.floor(clock[2] / 1000) + tonumber(ARGV[3])
  if held or score < 0 or next_attempt < score then
    redis.call('ZADD', KEYS[1], string.format('%.0f', next_attempt), ARGV[1])
  end
end
return held and 1 or 0
