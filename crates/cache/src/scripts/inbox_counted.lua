-- One chat was counted anew. ARGV: chat, its value when that began ('': none), its value now.
-- Answers 1 if it is taken; 0 if something has arrived meanwhile, or nothing is known at all.
if redis.call('HGET', UNREAD, 'state') ~= 'ready' then return 0 end
if (redis.call('HGET', UNREAD, ARGV[1]) or '') ~= ARGV[2] then return 0 end
redis.call('HSET', UNREAD, ARGV[1], ARGV[3])
return 1
