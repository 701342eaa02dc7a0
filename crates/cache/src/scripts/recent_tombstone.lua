-- Turns the entry that one attempt made into a tombstone, and announces that.
-- ARGV: 3 id, 4 its bytes, 5 attempt, 6 the tombstone's rest, 7 publication, 8… channels. Answers 1 if it did.
local entry, index = find(ARGV[4])
if not entry or entry[4] ~= tonumber(ARGV[5]) then return 0 end
redis.call('LSET', LIST, index, ENTRY .. (entry[2] and cmsgpack.pack(entry[2]) or NIL) .. ARGV[6])
head.m = head.m - redis.call('ZREM', IDS, ARGV[3])
save()
publish(ARGV[7], 8, #ARGV)
return 1
