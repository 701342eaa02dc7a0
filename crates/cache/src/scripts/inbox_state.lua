-- A user's inbox: the keys and their format, shared by every script on it.
-- KEYS: unread counts (hash), conversations (sorted set).
--
--   unread    'state' is 'ready', or the token of the count in progress; of each chat 'count epoch seq': so many were unread when the
--             chat's stream had reached that position. An epoch of '-': there was no list. A chat without a field had none unread,
--             and no message for longer than an arrival takes to be reported.
--             During a count: '+chat epoch seq' of each message that has arrived meanwhile; otherwise, for some seconds, of the first
--             message of a chat.
--   list      chats by last timestamp; '=' below all of them: ready, with a score of -1 if these are all, of -2 if there are older ones
local UNREAD, LIST = KEYS[1], KEYS[2]
local NO_LIST = '-'

local function counted(value)
  local count, epoch, seq = string.match(value or '', '^(%d+) (%S+) (%d+)$')
  return tonumber(count), epoch, tonumber(seq)
end

local function forget()
  redis.call('DEL', UNREAD, LIST)
end
