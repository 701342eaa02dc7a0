#!lua flags=allow-oom
-- Takes due chats for a while. KEYS: index. ARGV: 1 how many at most, 2 for how many ms, 3 how many ms ahead a score can be.
-- Answers {lease end, chats…}.
local max = tonumber(ARGV[1])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local lease = string.format('%.0f', now + tonumber(ARGV[2]))
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now), 'LIMIT', 0, max)
if #due < max then
  -- Further ahead than any lease or back-off was ever put: the clock went back since, by nobody knows how much.
  local beyond = string.format('(%.0f', now + tonumber(ARGV[3]))
  for _, chat in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], beyond, '+inf', 'LIMIT', 0, max - #due)) do
    due[#due + 1] = chat
  end
end
for _, chat in ipairs(due) do redis.call('ZADD', KEYS[1], lease, chat) end
table.insert(due, 1, lease)
return due
