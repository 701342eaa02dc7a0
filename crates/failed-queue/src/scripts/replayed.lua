#!lua flags=allow-oom
-- Remembers for a while what was published last. KEYS: list of ids. ARGV: 1 for how many ms, 2 how many ids at most, 3… the ids.
for i = 3, #ARGV do redis.call('RPUSH', KEYS[1], ARGV[i]) end
redis.call('LTRIM', KEYS[1], -tonumber(ARGV[2]), -1)
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
