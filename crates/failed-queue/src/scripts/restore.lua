#!lua flags=allow-oom
-- Adds chats that the index lacks, due now. KEYS: index. ARGV: chats. Answers how many it added.
local clock = redis.call('TIME')
local now = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000))
local added = 0
for i = 1, #ARGV do added = added + redis.call('ZADD', KEYS[1], 'NX', now, ARGV[i]) end
return added
