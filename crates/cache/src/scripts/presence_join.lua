#!lua
-- Records that devices are connected, for a lifetime.
-- KEYS: 1 every device by expiry, then for each device its user's. ARGV: 1 ms that a device counts as connected, 2 ms that a user is
-- remembered, 3 '1' if the devices have just connected, then each device. Answers {now, index of each user who came online}.
-- A user who was offline comes online. For a connection that merely continues, that is announced only if the user was announced as offline
-- before, which 'seen' records. So nothing is announced when the server has lost its data.
local life, remember, fresh = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] == '1'
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local answer = { now }
for index = 2, #KEYS do
  local user, device = KEYS[index], ARGV[index + 2]
  local last = redis.call('ZREVRANGE', user, 0, 0, 'WITHSCORES')
  local gone = not last[1] or tonumber(last[2]) <= now
  if gone and (fresh or redis.call('ZSCORE', user, 'seen')) then answer[#answer + 1] = index - 2 end
  redis.call('ZADD', KEYS[1], now + life, device)
  redis.call('ZADD', user, now + life, device)
  redis.call('PEXPIRE', user, remember)
end
return answer
