-- What the scripts share that change the recent list.

-- Gives all keys their whole life, together; but not anew within a hundredth of it, unless one was just made.
local function keep_alive()
  if head.n == 0 and head.m == 0 then return end
  if head.n > 1 and head.m > 1 and now - head.alive < tonumber(ARGV[2]) * 10 then return end
  for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ARGV[2]) end
  head.alive = now
end

-- The live entry with this id, its index and its bytes. Recent ones are asked for most.
local function find(id)
  local entries = redis.call('LRANGE', LIST, 0, -1)
  for i = #entries, 1, -1 do
    -- Unpacking all of a list's contents would cost milliseconds.
    local entry = string.find(entries[i], id, 1, true) and decode(entries[i])
    if entry and entry[3] == id and entry[7] then return entry, i - 1, entries[i] end
  end
end

-- What is known to be durable is no attempt's any more, so that none takes it back. Nothing else of the entry changes.
local function keep(entry, index, bytes)
  if entry[4] == DURABLE then return end
  local from, to = cmsgpack.unpack_limit(bytes, 3, 1), cmsgpack.unpack_limit(bytes, 4, 1)
  redis.call('LSET', LIST, index, string.sub(bytes, 1, from) .. cmsgpack.pack(DURABLE) .. string.sub(bytes, to + 1))
end

-- The place in history of an entry, tombstones included, without unpacking its content; nil if it can't be read.
local function place(bytes)
  if string.byte(bytes) ~= 154 then return end
  local ok, _, _, _, id, _, ts = pcall(cmsgpack.unpack_limit, bytes, 5, 1)
  if ok and type(id) == 'string' and #id == 16 and type(ts) == 'number' then return ts, id end
end

-- One attempt at one message, as `void` holds it.
local function mark(id, attempt)
  return id .. string.format('%010d', attempt)
end

local function listed(id_text, ts)
  if head.m == 0 then head.alive = 0 end -- a new key has no life yet
  head.m = head.m + redis.call('ZADD', IDS, ts, id_text)
  ts = tonumber(ts)
  if head.n == 1 or (head.low and ts < head.low) then head.low = ts end
end

-- At the tail, as the next of the live stream.
local function append(id, bytes, ts, rest)
  local newest = head.n == 0 or (head.top_ts and above(tonumber(ts), bytes, head.top_ts, head.top_id))
  head.top_ts, head.top_id = newest and tonumber(ts) or nil, bytes
  head.seq = head.seq + 1
  head.n = redis.call('RPUSH', LIST, ENTRY .. cmsgpack.pack(head.seq) .. rest)
  listed(id, ts)
end

-- The entry that is oldest in history: at the head, or anywhere when the list is not in history's order. One that can't be read
-- counts as the oldest.
local function pop_oldest()
  if head.top_ts then return redis.call('LPOP', LIST) end
  local entries = redis.call('LRANGE', LIST, 0, -1)
  local places, victim = {}, nil
  for i, bytes in ipairs(entries) do
    local ts, id = place(bytes)
    if not ts then
      redis.call('LREM', LIST, 1, bytes)
      return bytes
    end
    places[i] = { ts, id }
    if not victim or above(places[victim][1], places[victim][2], ts, id) then victim = i end
  end
  redis.call('LREM', LIST, 1, entries[victim])
  table.remove(places, victim)
  for i = 2, #places do
    local before, after = places[i - 1], places[i]
    if not above(after[1], after[2], before[1], before[2]) then return entries[victim] end
  end
  local top = places[#places]
  if top then head.top_ts, head.top_id = top[1], top[2] end
  return entries[victim]
end

-- This place in history is no longer, or never got to be, listed.
local function let_go(ts, id)
  if above(ts, id, head.trimmed_ts, head.trimmed_id) then head.trimmed_ts, head.trimmed_id = ts, id end
  if head.floor_ts and above(ts, id, head.floor_ts, head.floor_id) then head.floor_ts, head.floor_id = ts, id end
end

-- A message that comes late does not push out newer ones. A tombstone claims nothing: nobody misses the message that it was.
local function trim_list(max)
  while head.n > max do
    local entry = decode(pop_oldest())
    head.n = head.n - 1
    if entry then
      if entry[7] then let_go(entry[5], entry[3]) end
    else
      head.run = '' -- nobody knows what went: the next script begins a new epoch
    end
  end
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
