-- Stores the new count of one chat. ARGV: chat, its value when that count began ('': none), its value now.
-- Answers 1 if it is stored; 0 if a message has arrived meanwhile, or no counts are cached.
if redis.call('HGET', UNREAD, 'state') ~= 'ready' then return 0 end
if (redis.call('HGET', UNREAD, ARGV[1]) or '') ~= ARGV[2] then return 0 end
redis.call('HSET', UNREAD, ARGV[1], ARGV[3])
return 1
