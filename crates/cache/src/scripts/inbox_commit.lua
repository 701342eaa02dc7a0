-- Stores the result of a count, together with the messages that arrived since it began.
-- ARGV: 1 token, 2 and 3 the times to live of counts and list in milliseconds, 4 the score of '=', 5 how many counts;
-- then of each: chat, count, epoch, seq, '1' if its position is to be stored although nothing is unread; then chat, timestamp of each chat.
-- Answers {'done'}, {'overtaken'}, or {'unknown', chats…}: these chats have to be counted too, or again because they have a list now.
if redis.call('HGET', UNREAD, 'state') ~= ARGV[1] then return { 'overtaken' } end
local chats, rest = {}, 6 + tonumber(ARGV[5]) * 5
for i = 6, rest - 1, 5 do
  chats[ARGV[i]] = { tonumber(ARGV[i + 1]), ARGV[i + 2], tonumber(ARGV[i + 3]), ARGV[i + 4] == '1' }
end
local unknown = { 'unknown' }
for _, field in ipairs(redis.call('HKEYS', UNREAD)) do
  local chat, epoch, seq = string.match(field, '^%+(%S+) (%S+) (%d+)$')
  if chat then
    local known = chats[chat]
    if not known or known[2] == NO_LIST then
      unknown[#unknown + 1] = chat
    elseif known[2] == epoch then
      if tonumber(seq) > known[3] then known[1] = known[1] + 1 end
    else
      forget() -- the list has begun a new epoch meanwhile
      return { 'overtaken' }
    end
  end
end
if #unknown > 1 then return unknown end
redis.call('DEL', UNREAD)
redis.call('HSET', UNREAD, 'state', 'ready')
for chat, known in pairs(chats) do
  if known[1] > 0 or known[4] then
    redis.call('HSET', UNREAD, chat, known[1] .. ' ' .. known[2] .. ' ' .. known[3])
  end
end
redis.call('PEXPIRE', UNREAD, ARGV[2])
if redis.call('ZREM', LIST, '?') == 1 then
  for i = rest, #ARGV, 2 do redis.call('ZADD', LIST, 'GT', ARGV[i + 1], ARGV[i]) end
  redis.call('ZADD', LIST, ARGV[4], '=')
  redis.call('PEXPIRE', LIST, ARGV[3])
end
return { 'done' }
