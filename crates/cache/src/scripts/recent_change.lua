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

-- The history key (timestamp, id) of an entry, tombstones included, without unpacking its content; nil if it can't be decoded.
local function history_key(bytes)
  if string.byte(bytes) ~= 154 then return end
  local ok, _, _, _, id, _, ts = pcall(cmsgpack.unpack_limit, bytes, 5, 1)
  if ok and type(id) == 'string' and #id == 16 and type(ts) == 'number' then return ts, id end
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

-- Removes and returns the entry that is oldest in history: at the head, or anywhere when the list is not in history's order. An entry
-- that can't be decoded counts as the oldest.
local function pop_oldest()
  if head.top_ts then return redis.call('LPOP', LIST) end
  local entries = redis.call('LRANGE', LIST, 0, -1)
  local order, victim = {}, nil
  for i, bytes in ipairs(entries) do
    local ts, id = history_key(bytes)
    if not ts then
      redis.call('LREM', LIST, 1, bytes)
      return bytes
    end
    order[i] = { ts, id }
    if not victim or above(order[victim][1], order[victim][2], ts, id) then victim = i end
  end
  redis.call('LREM', LIST, 1, entries[victim])
  table.remove(order, victim)
  for i = 2, #order do
    local before, after = order[i - 1], order[i]
    if not above(after[1], after[2], before[1], before[2]) then return entries[victim] end
  end
  local top = order[#order]
  if top then head.top_ts, head.top_id = top[1], top[2] end
  return entries[victim]
end

-- The message with this history key is no longer listed, or never was: raises the trimmed key and the floor.
local function let_go(ts, id)
  if above(ts, id, head.trimmed_ts, head.trimmed_id) then head.trimmed_ts, head.trimmed_id = ts, id end
  if head.floor_ts and above(ts, id, head.floor_ts, head.floor_id) then head.floor_ts, head.floor_id = ts, id end
end

-- Trims the oldest entries, so that a late message does not displace newer ones. Trimming a tombstone does not raise the floor: its message
-- was retracted.
local function trim_list(max)
  while head.n > max do
    local entry = decode(pop_oldest())
    head.n = head.n - 1
    if entry then
      if entry[7] then let_go(entry[5], entry[3]) end
    else
      head.run = '' -- the trimmed message is unknown: the next script begins a new epoch
    end
  end
end

-- Trims the oldest ids first, but none whose entry is still listed: its message could be added a second time.
local function trim_ids(max)
  local present -- the ids of the list, once they had to be read
  while head.m > max do
    local oldest = redis.call('ZRANGE', IDS, 0, 0, 'WITHSCORES')
    local victim = oldest[1]
    if not head.low or tonumber(oldest[2]) >= head.low then
      if not present then
        present, head.low = {}, nil
        for _, bytes in ipairs(redis.call('LRANGE', LIST, 0, -1)) do
          local entry = decode(bytes)
          if entry and entry[7] then
            present[id_text(entry[3])] = true
            if not head.low or entry[5] < head.low then head.low = entry[5] end
          end
        end
      end
      victim = nil
      for _, id in ipairs(redis.call('ZRANGE', IDS, 0, head.n)) do
        if not present[id] then
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
