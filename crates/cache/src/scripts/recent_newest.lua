-- Answers the entry of the message that is newest in history, or nothing.
open(1)
local newest, newest_ts, newest_id
for i = head.n - 1, 0, -1 do
  local bytes = redis.call('LINDEX', LIST, i)
  local ok, _, _, _, id, _, ts, _, content = pcall(cmsgpack.unpack_limit, bytes, 7, 1)
  if ok and content and type(id) == 'string' and type(ts) == 'number'
    and (not newest or above(ts, id, newest_ts, newest_id)) then
    newest, newest_ts, newest_id = bytes, ts, id
  end
  if newest and head.top_ts then break end
end
return newest or false
