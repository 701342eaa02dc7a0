-- A part of the list, newest first. ARGV: 1 how many, 2 and 3 the cursor (timestamp, chat) that they come before; '' for the newest.
-- Answers {the score of '=', chat, timestamp, …}, or nothing if the list is not ready.
local ready = redis.call('ZSCORE', LIST, '=')
if not ready then return false end

-- As the server orders members of one score.
local function below(one, other)
  for i = 1, math.min(#one, #other) do
    local a, b = string.byte(one, i), string.byte(other, i)
    if a ~= b then return a < b end
  end
  return #one < #other
end

local limit, ts, chat = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local page, from = { ready }, 0
if ts then from = redis.call('ZCOUNT', LIST, '(' .. ARGV[2], '+inf') end
while #page <= limit * 2 do
  local found = redis.call('ZREVRANGE', LIST, from, from + limit - 1, 'WITHSCORES')
  if #found == 0 then break end
  from = from + #found / 2
  for i = 1, #found, 2 do
    local score = tonumber(found[i + 1])
    if score < 0 then return page end
    if #page <= limit * 2 and (not ts or score < ts or below(found[i], chat)) then
      page[#page + 1] = found[i]
      page[#page + 1] = found[i + 1]
    end
  end
end
return page
