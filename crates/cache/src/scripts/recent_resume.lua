-- What came after a client's offset, if all of it is still listed.
-- ARGV: 3 the offset's epoch, 4 its seq. Answers {epoch, seq, entries}, or without entries.
local missed = head.seq - tonumber(ARGV[4])
if ARGV[3] ~= head.epoch or missed < 0 or missed > head.n then return { head.epoch, head.seq } end
if missed == 0 then return { head.epoch, head.seq, {} } end
return { head.epoch, head.seq, redis.call('LRANGE', LIST, -missed, -1) }
