-- Begins a count: from now on arrivals are recorded for it. ARGV: a token, milliseconds that the count may take.
-- Answers the token of the count in progress, or nothing if a count has been finished.
local state = redis.call('HGET', UNREAD, 'state')
local listed = redis.call('EXISTS', LIST) == 1
if state and listed then
  if state ~= 'ready' then return state end
  if redis.call('ZSCORE', LIST, '=') then return false end
end
-- Without a state there can only be new chats, which are to be counted too.
if state then forget() end
redis.call('HSET', UNREAD, 'state', ARGV[1])
redis.call('DEL', LIST)
redis.call('ZADD', LIST, -3, '?')
redis.call('PEXPIRE', UNREAD, ARGV[2])
redis.call('PEXPIRE', LIST, ARGV[2])
return ARGV[1]
