-- Functions shared by the scripts that change recent lists.

-- Renews the time to live of all keys together; but at most once in a hundredth of it, unless a key was just created.
local function keep_alive()
  if head.n == 0 and head.m == 0 then return end
  if head.n > 1 and head.m > 1 and now - head.alive < tonumber(ARGV[2]) * 10 then return end
  for _, key in ipairs({ LIST, IDS, HEAD }) do redis.call('EXPIRE', key, ARGV[2]) end
  head.alive = now
end

-- The live entry with this id, its index and its bytes. Searches from the newest, which are requested most.
local function find(id)
  local entries = redis.call('LRANGE', LIST, 0, -1)
  for i = #entries, 1, -1 do
    -- Unpacking all of a list's contents would cost milliseconds.
    local entry = string.find(entries[i], id, 1, true) and decode(entries[i])
    if entry and entry[3] == id and entry[7] then return entry, i - 1, entries[i] end
  end
end

-- Marks an entry as durable: it belongs to no attempt any more, so it is no longer subject to retraction. Nothing else of it changes.
local function keep(entry, index, bytes)
  if entry[4] == DURABLE then return end
  local from, to = cmsgpack.unpack_limit(bytes, 3, 1), cmsgpack.unpack_limit(bytes, 4, 1)
  redis.call('LSET', LIST, index, string.sub(bytes, 1, from) .. cmsgpack.pack(DURABLE) .. string.sub(bytes, to + 1))
end

-- The history key (timestamp, id) of an entry, tombstones included, and whether it is a live message; nothing if it can't be read.
local function history_key(bytes)
  if string.byte(bytes) == 154 then
    -- Without unpacking its content.
    local ok, last, _, _, id, _, ts = pcall(cmsgpack.unpack_limit, bytes, 6, 1)
    if ok and last > 0 and type(id) == 'string' and #id == 16 and type(ts) == 'number' then
      return ts, id, string.sub(bytes, last + 1, last + 1) ~= NIL
    end
  end
  local entry = decode(bytes)
  if entry then return entry[5], entry[3], entry[7] ~= nil end
end

-- One attempt at one message, as `void` stores it.
local function mark(id, attempt)
  return id .. string.format('%010d', attempt)
end

local function listed(id_text, ts)
  if head.m == 0 then head.alive = 0 end -- a new key has no life yet
  head.m = head.m + redis.call('ZADD', IDS, ts, id_text)
  ts = tonumber(ts)
  if head.n == 1 or (head.low and ts < head.low) then head.low = ts end
end

-- Appends an entry at the tail, as the next message of the live stream.
local function append(id, bytes, ts, rest)
  local newest = head.n == 0 or (head.top_ts and above(tonumber(ts), bytes, head.top_ts, head.top_id))
  head.top_ts, head.top_id = newest and tonumber(ts) or nil, bytes
  head.seq = head.seq + 1
  head.n = redis.call('RPUSH', LIST, ENTRY .. cmsgpack.pack(head.seq) .. rest)
  listed(id, ts)
end

-- Removes and returns so many entries that are oldest in history: at the head, or anywhere when the list is not in history's order.
-- Entries that can't be read count as the oldest.
local function pop_oldest(count)
  if head.top_ts then return redis.call('LPOP', LIST, count) end
  local order, ages = {}, {}
  for i, bytes in ipairs(redis.call('LRANGE', LIST, 0, -1)) do
    local ts, id = history_key(bytes)
    order[i] = { ts = ts or -math.huge, id = id or '', bytes = bytes, index = i }
    ages[i] = order[i]
  end
  table.sort(ages, function(a, b)
    if a.ts == b.ts and a.id == b.id then return a.index < b.index end
    return above(b.ts, b.id, a.ts, a.id)
  end)
  local gone = {}
  for i = 1, count do
    ages[i].gone, gone[i] = true, ages[i].bytes
    redis.call('LREM', LIST, 1, gone[i])
  end
  local last
  for _, entry in ipairs(order) do
    if not entry.gone then
      if last and not above(entry.ts, entry.id, last.ts, last.id) then return gone end
      last = entry
    end
  end
  if last then head.top_ts, head.top_id = last.ts, last.id end
  return gone
end

-- The message with this history key is no longer listed, or never was: raises the trimmed key and the floor.
local function let_go(ts, id)
  if above(ts, id, head.trimmed_ts, head.trimmed_id) then head.trimmed_ts, head.trimmed_id = ts, id end
  if head.floor_ts and above(ts, id, head.floor_ts, head.floor_id) then head.floor_ts, head.floor_id = ts, id end
end

-- Trims the oldest entries, so that a late message does not displace newer ones. Trimming a tombstone does not raise the floor: its message
-- was retracted.
local function trim_list(max)
  if head.n <= max then return end
  for _, bytes in ipairs(pop_oldest(head.n - max)) do
    local ts, id, live = history_key(bytes)
    if not ts then
      head.run = '' -- the trimmed message is unknown: whoever opens the list next begins a new epoch
    else
      if live then let_go(ts, id) end
      if not head.low or ts > head.low then head.low = ts end -- what is left lies above it
    end
  end
  head.n = max
end

-- Trims the oldest ids first, but none whose entry is still listed: its message could be added a second time.
local function trim_ids(max)
  local excess = head.m - max
  if excess <= 0 then return end
  local newest = redis.call('ZRANGE', IDS, excess - 1, excess - 1, 'WITHSCORES')
  if head.low and tonumber(newest[2]) < head.low then
    head.m = head.m - redis.call('ZREMRANGEBYRANK', IDS, 0, excess - 1)
    return
  end
  local listed_ids = {}
  head.low = nil
  for _, bytes in ipairs(redis.call('LRANGE', LIST, 0, -1)) do
    local ts, id, live = history_key(bytes)
    if live then
      listed_ids[id_text(id)] = true
      if not head.low or ts < head.low then head.low = ts end
    end
  end
  for _, id in ipairs(redis.call('ZRANGE', IDS, 0, head.n + excess - 1)) do
    if head.m <= max then return end
    if not listed_ids[id] then head.m = head.m - redis.call('ZREM', IDS, id) end
  end
end

local function publish(payload, first, last)
  for i = first, last do redis.call('PUBLISH', ARGV[i], payload) end
end

local function publish_message(prefix, rest, first, last)
  publish(prefix .. cmsgpack.pack(head.epoch) .. cmsgpack.pack(head.seq) .. rest, first, last)
end
