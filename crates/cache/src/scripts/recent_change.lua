-- What the scripts share that change the recent list.
local function keep_alive()
  for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ARGV[2]) end
end

-- The live entry with this id, and its index. Recent ones are asked for most.
local function find(id)
  local entries = redis.call('LRANGE', LIST, 0, -1)
  for i = #entries, 1, -1 do
    local entry = decode(entries[i])
    if entry and entry[3] == id and entry[7] then return entry, i - 1 end
  end
end

local function listed(id_text, ts)
  head.m = head.m + redis.call('ZADD', IDS, ts, id_text)
  ts = tonumber(ts)
  if head.n == 1 or (head.low and ts < head.low) then head.low = ts end
end

-- At the tail, as the next of the live stream.
local function append(id, ts, rest)
  head.seq = head.seq + 1
  head.n = redis.call('RPUSH', LIST, ENTRY .. cmsgpack.pack(head.seq) .. rest)
  listed(id, ts)
end

-- This place in history is no longer, or never got to be, listed.
local function let_go(ts, id)
  if above(ts, id, head.trimmed_ts, head.trimmed_id) then head.trimmed_ts, head.trimmed_id = ts, id end
  if head.floor_ts and above(ts, id, head.floor_ts, head.floor_id) then head.floor_ts, head.floor_id = ts, id end
end

local function trim_list(max)
  local excess = head.n - max
  if excess <= 0 then return end
  for _, bytes in ipairs(redis.call('LPOP', LIST, excess)) do
    local entry = decode(bytes)
    if entry then
      let_go(entry[5], entry[3])
    else
      run = '' -- nobody knows what went: the next script begins a new epoch
    end
  end
  head.n = head.n - excess
end

-- The oldest ids go first, but none whose entry is still listed: it would be added once more.
local function trim_ids(max)
  local kept -- the ids of the list, when they had to be looked at
  while head.m > max do
    local oldest = redis.call('ZRANGE', IDS, 0, 0, 'WITHSCORES')
    local victim = oldest[1]
    if not head.low or tonumber(oldest[2]) >= head.low then
      if not kept then
        kept, head.low = {}, nil
        for _, bytes in ipairs(redis.call('LRANGE', LIST, 0, -1)) do
          local entry = decode(bytes)
          if entry and entry[7] then
            kept[id_text(entry[3])] = true
            if not head.low or entry[5] < head.low then head.low = entry[5] end
          end
        end
      end
      victim = nil
      for _, id in ipairs(redis.call('ZRANGE', IDS, 0, head.n)) do
        if not kept[id] then
          victim = id
          break
        end
      end
    end
    if not victim then return end
    head.m = head.m - redis.call('ZREM', IDS, victim)
  end
end

local function publish(payload, first, last)
  for i = first, last do redis.call('PUBLISH', ARGV[i], payload) end
end

local function publish_message(prefix, rest, first, last)
  publish(prefix .. cmsgpack.pack(head.epoch) .. cmsgpack.pack(head.seq) .. rest, first, last)
end
