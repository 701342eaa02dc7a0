-- Retracts a message: turns the entry of one attempt into a tombstone, and announces that. A trimmed entry may have become durable before,
-- so nothing is announced; but its id is removed, so that a later durable attempt lists the message again. If the attempt has no entry, its
-- addition may still arrive, and will be ignored.
-- ARGV: 3 id, 4 its bytes, 5 attempt, 6 how many such attempts are known, 7 the tombstone's rest, 8 publication, 9… channels.
-- Answers {'done' | 'durable' | 'absent', epoch, seq or nil, timestamp or nil}; seq and timestamp are of the durable entry, which is not
-- subject to retraction. An entry of another attempt is not known to be durable: that counts as absent.
open(1)
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
local durable = entry and entry[4] == DURABLE
return { durable and 'durable' or 'absent', head.epoch, durable and entry[2] or false, durable and entry[5] or false }
