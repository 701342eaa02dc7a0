#!lua
-- Which users are online, and when the others were last seen.
-- KEYS: the devices of each user. ARGV: ms that a device counts as connected. Answers {1 or 0, last seen or 0} of each, flat.
local life = tonumber(ARGV[1])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local answer = {}
for index = 1, #KEYS do
  local last = redis.call('ZREVRANGE', KEYS[index], 0, 0, 'WITHSCORES')
  local expiry = tonumber(last[2] or 0)
  if expiry > now then
    answer[2 * index - 1], answer[2 * index] = 1, now
  else
    local seen = -(redis.call('ZSCORE', KEYS[index], 'seen') or 0)
    answer[2 * index - 1], answer[2 * index] = 0, math.max(seen, expiry > 0 and expiry - life or 0)
  end
end
return answer
