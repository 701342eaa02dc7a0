-- The recent list of one chat: the state that every script on it loads first.
-- KEYS: list, ids, head. ARGV[1]: the epoch to begin if one has to begin, ARGV[2]: time to live in seconds.
--
-- Invariants that every script preserves:
--   list      entries by arrival, newest at the tail; their seqs rise, and are consecutive but for what was trimmed between them
--   attempt   of an entry that a caller knew to be durable: none, whichever attempt had listed it; it is not subject to retraction
--   ids       holds the id of every live entry of the list, scored by timestamp
--   floor     the list holds everything strictly above this (timestamp, id) that was added in this epoch or seen by a repair;
--             absent: nothing is known to be complete; (0, ''): the list is the whole chat
--   trimmed   the greatest (timestamp, id) that left the list, or found no room in it, in this epoch; floor is never below it
--   n, m      the lengths of list and ids, so that the loss of one key is noticed
--   top       the greatest (timestamp, id) of the list, while it lies in history's order; absent: it may not
--   alive     when the time to live of the three keys was last renewed
--   void      the attempts, each with its message's id, that were retracted before they added anything: their additions are ignored
--   low       no live entry of the list has a lower timestamp; absent: not known
local LIST, IDS, HEAD = KEYS[1], KEYS[2], KEYS[3]
local ENTRY, NIL = '\154\1', '\192' -- array of ten, version 1
local DURABLE = 0 -- no sender's attempt

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- Lua compares strings by the server's locale; ids are compared by their bytes.
local function above(ts, id, other_ts, other_id)
  if ts ~= other_ts then return ts > other_ts end
  for i = 1, math.min(#id, #other_id) do
    local a, b = string.byte(id, i), string.byte(other_id, i)
    if a ~= b then return a > b end
  end
  return #id > #other_id
end

-- version, seq, id, attempt, timestamp, sender, content (absent in a tombstone), …; nil if it can't be read
local function decode(bytes)
  local ok, entry = pcall(cmsgpack.unpack, bytes)
  if ok and type(entry) == 'table' and type(entry[3]) == 'string' and #entry[3] == 16 and type(entry[5]) == 'number' then
    return entry
  end
end

local function id_text(bytes)
  local hex = string.gsub(bytes, '.', function(byte) return string.format('%02x', string.byte(byte)) end)
  return string.gsub(hex, '^(........)(....)(....)(....)(............)$', '%1-%2-%3-%4-%5')
end

local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or ''
local FIELDS = { 'epoch', 'run', 'seq', 'floor_ts', 'floor_id', 'trimmed_ts', 'trimmed_id', 'verified_at', 'n', 'm', 'low',
  'alive', 'top_ts', 'top_id', 'void' }
local stored = redis.call('HMGET', HEAD, unpack(FIELDS))
local head = {
  epoch = stored[1], run = run, seq = tonumber(stored[3]),
  floor_ts = tonumber(stored[4]), floor_id = stored[5] or '',
  trimmed_ts = tonumber(stored[6]) or 0, trimmed_id = stored[7] or '',
  verified_at = tonumber(stored[8]) or 0,
  n = tonumber(stored[9]), m = tonumber(stored[10]), low = tonumber(stored[11]), alive = tonumber(stored[12]) or 0,
  top_ts = tonumber(stored[13]), top_id = stored[14] or '',
  void = stored[15] or '',
}

-- Writes the changed fields. Whole numbers below 2^53 are written without a loss.
local function save()
  local changed = {}
  for i, field in ipairs(FIELDS) do
    local value, before = head[field] or '', stored[i]
    if type(value) == 'number' then before = tonumber(before) end
    if value ~= before then
      changed[#changed + 1] = field
      changed[#changed + 1] = value
    end
  end
  if #changed > 0 then redis.call('HSET', HEAD, unpack(changed)) end
end

if not head.epoch or not head.seq or stored[2] ~= run
  or redis.pcall('LLEN', LIST) ~= head.n or redis.pcall('ZCARD', IDS) ~= head.m then
  -- An unknown part of the list may be missing: begin a new epoch, with nothing verified.
  redis.call('DEL', LIST, IDS, HEAD)
  stored = {}
  head = { epoch = ARGV[1], run = run, seq = 0, floor_id = '', trimmed_ts = 0, trimmed_id = '', verified_at = 0, n = 0,
    m = 0, alive = 0, top_id = '', void = '' }
  save()
  -- A read of an empty chat creates its keys for minutes only; an addition sets the whole time to live.
  redis.call('EXPIRE', HEAD, math.min(tonumber(ARGV[2]), 600))
end
