-- Adds messages that the store has and the list lacks, replaces entries whose timestamp differs from the stored one by the stored form, and
-- lowers the floor to where the list is now complete, with the time of that read.
-- ARGV: 3 list max, 4 ids max, 5 the epoch that was read, 6 the server's time then, 7 and 8 the key down to which the store was
-- read, 9 publication prefix, 10 how many channels, then these, then for each item, oldest first: id, its bytes, timestamp, rest.
-- Answers {late arrivals, inserted below, corrected}, or nothing if the epoch is another.
open(1)
if head.epoch ~= ARGV[5] then return false end
local max, as_of = tonumber(ARGV[3]), tonumber(ARGV[6])
local first_item = 11 + tonumber(ARGV[10])
local late, below, inserted, corrected = 0, {}, 0, 0
trim_list(max) -- a gateway with a larger limit may have filled it

-- The entries with their history keys, the oldest first; none if one of them can't be decoded.
local function by_age()
  local entries = {}
  for i, bytes in ipairs(redis.call('LRANGE', LIST, 0, -1)) do
    local ts, id = history_key(bytes)
    if not ts then return {} end
    entries[i] = { ts, id, bytes }
  end
  table.sort(entries, function(a, b) return above(b[1], b[2], a[1], a[2]) end)
  return entries
end

-- A message above this key that the list lacks was sent while the list existed: it arrives late. Without a floor the key is the oldest entry's.
local oldest = not head.floor_ts and by_age()[1]
local function arrives_late(ts, id)
  if head.floor_ts then return above(ts, id, head.floor_ts, head.floor_id) end
  return oldest and above(ts, id, oldest[1], oldest[2])
end

for i = first_item, #ARGV, 4 do
  local id, bytes, ts, rest = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local known = redis.call('ZSCORE', IDS, id)
  local entry, index, listed_as
  if known then entry, index, listed_as = find(bytes) end
  if entry and entry[5] == tonumber(ts) then
    keep(entry, index, listed_as)
  elseif entry then
    redis.call('LSET', LIST, index, ENTRY .. (entry[2] and cmsgpack.pack(entry[2]) or NIL) .. rest)
    listed(id, ts)
    head.top_ts = nil
    corrected = corrected + 1
  elseif not known or above(tonumber(ts), bytes, head.trimmed_ts, head.trimmed_id) then
    -- Absent; or trimmed with an earlier timestamp than the stored one, so that its stored history key may be claimed.
    if arrives_late(tonumber(ts), bytes) then
      append(id, bytes, ts, rest)
      trim_list(max)
      publish_message(ARGV[9], rest, 11, first_item - 1)
      late = late + 1
    else
      below[#below + 1] = i
    end
  end
end

-- In a full list the oldest entry makes room for a message above it; else the floor would rise to that message and stay there, however
-- much of the list lies below.
local entries
local function make_room(ts, id)
  entries = entries or by_age()
  local first = entries[1]
  if not first or not above(ts, id, first[1], first[2]) then return false end
  redis.call('LREM', LIST, 1, first[3])
  head.n = head.n - 1
  local gone = decode(first[3])
  if gone and gone[7] then let_go(first[1], first[2]) end
  table.remove(entries, 1)
  return true
end

for k = #below, 1, -1 do
  local i = below[k]
  local bytes, ts = ARGV[i + 1], tonumber(ARGV[i + 2])
  if head.n >= max and not make_room(ts, bytes) then
    let_go(ts, bytes)
    break
  end
  head.n = redis.call('LPUSH', LIST, ENTRY .. NIL .. ARGV[i + 3])
  listed(ARGV[i], ARGV[i + 2])
  head.top_ts = nil
  inserted = inserted + 1
end

-- Complete strictly above both how far the store was read and whatever this epoch let go.
local ts, id = tonumber(ARGV[7]), ARGV[8]
if above(head.trimmed_ts, head.trimmed_id, ts, id) then ts, id = head.trimmed_ts, head.trimmed_id end
-- Floor and time are one statement. The later statement holds; one that was overtaken adds nothing.
if not head.floor_ts or as_of >= head.verified_at or head.verified_at > now then
  head.floor_ts, head.floor_id, head.verified_at = ts, id, as_of
end
trim_ids(tonumber(ARGV[4]))
keep_alive()
save()
return { late, inserted, corrected }
