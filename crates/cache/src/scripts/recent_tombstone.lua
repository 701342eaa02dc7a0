-- Turns the entry that one attempt made into a tombstone, and announces that. An attempt that has made none never will: its addition
-- may yet arrive.
-- ARGV: 3 id, 4 its bytes, 5 attempt, 6 how many such attempts are known, 7 the tombstone's rest, 8 publication, 9… channels.
-- Answers 1 if it did.
local attempt = tonumber(ARGV[5])
local entry, index = find(ARGV[4])
if not entry or entry[4] ~= attempt then
  local void = mark(ARGV[4], attempt)
  head.void = string.sub(void .. head.void, 1, #void * tonumber(ARGV[6]))
  save()
  return 0
end
redis.call('LSET', LIST, index, ENTRY .. (entry[2] and cmsgpack.pack(entry[2]) or NIL) .. ARGV[7])
head.m = head.m - redis.call('ZREM', IDS, ARGV[3])
save()
publish(ARGV[8], 9, #ARGV)
return 1
