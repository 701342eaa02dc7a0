#!lua flags=allow-oom
-- Takes due chats for a while. KEYS: index. ARGV: 1 how many at most, 2 for how many ms. Answers {lease end, chats…}.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local lease = string.format('%.0f', now + tonumber(ARGV[2]))
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now), 'LIMIT', 0, ARGV[1])
for _, chat in ipairs(due) do redis.call('ZADD', KEYS[1], lease, chat) end
table.insert(due, 1, lease)
return due
