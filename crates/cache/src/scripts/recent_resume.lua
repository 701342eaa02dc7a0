-- The entries after a client's offset, if all of them are still listed.
-- ARGV: 3 the offset's epoch, 4 its seq. Answers {epoch, seq, entries}, or without entries.
open(1)
local offset = tonumber(ARGV[4])
local missed = head.seq - offset
if ARGV[3] ~= head.epoch or missed < 0 or missed > head.n then return { head.epoch, head.seq } end
if missed == 0 then return { head.epoch, head.seq, {} } end
-- Seqs rise along the list: if the first entry is the next seq and there are as many as were missed, none is missing.
local entries = redis.call('LRANGE', LIST, -missed, -1)
local first = decode(entries[1])
if not first or first[2] ~= offset + 1 then return { head.epoch, head.seq } end
return { head.epoch, head.seq, entries }
