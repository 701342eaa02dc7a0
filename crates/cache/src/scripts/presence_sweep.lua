#!lua
-- Forgets devices that count as connected no more. Whoever removes a user's last one learns that the user has gone.
-- KEYS: 1 every device by expiry, then for each device its user's. ARGV: 1 ms that a device counts as connected, 2 ms that a user is
-- remembered, then each device. Answers {index, last seen} of each user who has gone, flat.
-- A device that vanished was last heard of a life before its expiry; of one that left, 'seen' says when. Times are negative there, so
-- that a user's devices lie above.
local life, remember = tonumber(ARGV[1]), ARGV[2]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local answer = {}
for index = 2, #KEYS do
  local user, device = KEYS[index], ARGV[index + 1]
  local expiry = tonumber(redis.call('ZSCORE', KEYS[1], device))
  if expiry and expiry > now + life then
    redis.call('ZADD', KEYS[1], now + life, device)
    redis.call('ZADD', user, now + life, device)
  elseif expiry and expiry <= now then
    redis.call('ZREM', KEYS[1], device)
    local last = redis.call('ZREVRANGE', user, 0, 0, 'WITHSCORES')
    if redis.call('ZREM', user, device) == 1 and tonumber(last[2]) <= now then
      local seen = math.max(tonumber(last[2]) - life, -(redis.call('ZSCORE', user, 'seen') or 0))
      redis.call('DEL', user)
      redis.call('ZADD', user, -seen, 'seen')
      redis.call('PEXPIRE', user, remember)
      answer[#answer + 1] = index - 2
      answer[#answer + 1] = seen
    end
  end
end
return answer
