#!lua
-- Removes expired devices. A user whose last device is removed goes offline.
-- KEYS: 1 every device by expiry, then for each device its user's. ARGV: 1 ms that a device counts as connected, 2 ms that a user is
-- remembered, then each device. Answers {index, last seen} of each user who went offline, flat.
-- A device that vanished was last seen one lifetime before its expiry; for one that disconnected, 'seen' has the time. Times in 'seen' are
-- negative, so that a user's devices sort above it.
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
