-- Turns the entry that one attempt made into a tombstone, and announces that. One that was trimmed meanwhile may have become durable
-- before, so nothing is announced; but its id is forgotten, so that whoever makes it durable later lists it anew. An attempt without
-- an entry makes none any more: its addition may yet arrive.
-- ARGV: 3 id, 4 its bytes, 5 attempt, 6 how many such attempts are known, 7 the tombstone's rest, 8 publication, 9… channels.
-- Answers {'done' | 'kept' | 'absent', epoch, seq or nil, timestamp or nil}; the latter of what is kept because it is durable. What
-- another attempt listed, nobody knows to be so: as good as absent.
local attempt = tonumber(ARGV[5])
local entry, index = find(ARGV[4])
local own = entry and entry[4] == attempt
if own then redis.call('LSET', LIST, index, ENTRY .. (entry[2] and cmsgpack.pack(entry[2]) or NIL) .. ARGV[7]) end
if own or not entry then head.m = head.m - redis.call('ZREM', IDS, ARGV[3]) end
if not own then
  local void = mark(ARGV[4], attempt)
  head.void = string.sub(void .. head.void, 1, #void * tonumber(ARGV[6]))
end
save()
if own then publish(ARGV[8], 9, #ARGV) end
if own then return { 'done', head.epoch, false, false } end
local kept = entry and entry[4] == DURABLE
return { kept and 'kept' or 'absent', head.epoch, kept and entry[2] or false, kept and entry[5] or false }
