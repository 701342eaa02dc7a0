-- The entries that a user has not read: those that others sent above a history key.
-- ARGV: 3 the key's timestamp, 4 its id, 5 the user, as entries name their sender, 6 the greatest timestamp that does not lie ahead.
-- Answers {epoch, seq, the timestamp of the newest message that does not lie ahead, or 0, ids}.
open(1)
local STEP = 20
local ts, id, latest, unread = tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[6]), {}
local newest = head.top_ts or 0
if newest > latest then newest = 0 end
local last = head.n - 1
while last >= 0 do
  local entries = redis.call('LRANGE', LIST, math.max(last - STEP + 1, 0), last)
  for i = #entries, 1, -1 do
    local ok, _, _, _, entry_id, _, entry_ts, sender, content = pcall(cmsgpack.unpack_limit, entries[i], 7, 1)
    if ok and type(entry_id) == 'string' and type(entry_ts) == 'number' then
      if content and entry_ts > newest and entry_ts <= latest then newest = entry_ts end
      if above(entry_ts, entry_id, ts, id) then
        if content and tostring(sender) ~= ARGV[5] then unread[#unread + 1] = entry_id end
      elseif head.top_ts and newest > 0 then
        return { head.epoch, head.seq, newest, unread } -- in history's order, so nothing before it is above either
      end
    end
  end
  last = last - STEP
end
return { head.epoch, head.seq, newest, unread }
