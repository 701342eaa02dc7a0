-- A user's inbox: the keys and their format, shared by every script on it.
-- KEYS: unread counts (hash), conversations (sorted set).
--
--   unread    'state' is 'ready', or the token of the count in progress; of each chat 'count epoch seq', and ' arrivals' if there were any:
--             so many are unread, as counted when the chat's stream had reached that position, and with so many arrivals since. They keep a
--             value from ever returning to what it was, so a correction that compares it misses none. An epoch of '-': there was no
--             list. A chat without a field had none unread, and no message for longer than an arrival takes to be reported.
--             During a count: '+chat epoch seq' of each message that has arrived meanwhile; otherwise, for some seconds, of the first
--             message of a chat.
--   list      chats by last timestamp; '=' below all of them: ready, with a score of -1 if these are all, of -2 if there are older ones
local UNREAD, LIST = KEYS[1], KEYS[2]
local NO_LIST = '-'

local function counted(value)
  local count, epoch, seq, arrivals = string.match(value or '', '^(%d+) (%S+) (%d+) ?(%d*)$')
  return tonumber(count), epoch, tonumber(seq), tonumber(arrivals) or 0
end

local function forget()
  redis.call('DEL', UNREAD, LIST)
end
