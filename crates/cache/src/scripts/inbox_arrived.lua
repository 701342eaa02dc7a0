-- Applies listed messages to a user's inbox: raises the unread counts and moves chats up, as far as counts and list are cached.
-- ARGV: chat, timestamp, epoch, seq of each; of the user's own the epoch is ''.
local MAX_WAITING = 2000 -- arrivals while the counting goes on; with more it begins anew
local KNOWN_AFTER = 10000 -- milliseconds after which the store knows a new chat
local state = redis.call('HGET', UNREAD, 'state')
local listed = redis.call('EXISTS', LIST) == 1
for i = 1, #ARGV, 4 do
  local chat, ts, epoch, seq = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  if listed then redis.call('ZADD', LIST, 'GT', ts, chat) end
  if state == 'ready' and epoch ~= '' then
    local count, from, base, arrivals = counted(redis.call('HGET', UNREAD, chat))
    if not count then
      redis.call('HSET', UNREAD, chat, '1 ' .. epoch .. ' 0')
    elseif from ~= epoch then
      -- Positions of two epochs can't be compared, and without a list there was none. What follows finds nothing known.
      forget()
      state, listed = false, false
    elseif tonumber(seq) > base then
      redis.call('HSET', UNREAD, chat, table.concat({ count + 1, epoch, base, arrivals + 1 }, ' '))
    end
  end
  if state ~= 'ready' and epoch ~= '' and (state or seq == '1') then
    -- The chat may not be stored yet: the next count finds it here.
    redis.call('HSET', UNREAD, '+' .. chat .. ' ' .. epoch .. ' ' .. seq, '')
    if not state then redis.call('PEXPIRE', UNREAD, KNOWN_AFTER) end
  end
end
if state ~= 'ready' and redis.call('HLEN', UNREAD) > MAX_WAITING then forget() end
