-- Invalidates an entry: deletes it and the lease of the process that loads it now, and announces that to every process, in one step.
--
-- KEYS: the entry, its lease. ARGV: the channel, the announcement. Answers 1 if there was an entry.

local dropped = redis.call('UNLINK', KEYS[1])
redis.call('DEL', KEYS[2])
redis.call('PUBLISH', ARGV[1], ARGV[2])
return dropped
