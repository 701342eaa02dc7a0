-- What a user sees of their chats, as every script on it knows it.
-- KEYS: unread counts (hash), conversations (sorted set).
--
--   unread    'state' is 'ready', or the token of whoever is counting; of each chat 'count epoch seq': so many were unread when the
--             chat's stream had reached that position. An epoch of '-': there was no list. A chat without a field had none unread,
--             and no message for longer than an arrival takes to be reported.
--             While they are being counted: '+chat epoch seq' of each message that has arrived meanwhile; and, while nobody counts, of
--             the first message of a chat, for some seconds.
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
