-- The recent lists of chats: the state that every script on them loads first. A script opens a list (`open`) before it uses it.
-- KEYS: list, ids, head of each chat. ARGV[1]: the epoch to begin if one has to begin, ARGV[2]: time to live in seconds.
--
-- Invariants that every script preserves:
--   list      entries by arrival, newest at the tail; their seqs rise, and are consecutive but for what was trimmed between them
--   attempt   of an entry that a caller knew to be durable: none, whichever attempt had listed it; it is not subject to retraction
--   ids       holds the id of every live entry of the list, scored by timestamp
-- The head is a hash. Its field `state` is one packed value, because reading and writing a field for each part costs much more:
--   epoch, run, seq  the stream's epoch, the run id of the server on which it began, and its newest position
--   floor     the list holds everything strictly above this (timestamp, id) that was added in this epoch or seen by a repair;
--             absent: nothing is known to be complete; (0, ''): the list is the whole chat
--   trimmed   the greatest (timestamp, id) that left the list, or found no room in it, in this epoch; floor is never below it
--   n, m      the lengths of list and ids, so that the loss of one key is noticed
--   top       the greatest (timestamp, id) of the list, while it lies in history's order; absent: it may not
--   alive     when the time to live of the three keys was last renewed
--   low       no live entry of the list has a lower timestamp; absent: not known
-- Its field `void` holds the attempts, each with its message's id, that were retracted before they added anything: their additions are
-- ignored. Most lists have none.
local LIST, IDS, HEAD, head -- of the list that was opened last
local FORMAT = 1 -- of `state`; parts may be appended to it
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

-- The head as it is stored; nothing if there is none, or this build can't read it.
local function stored_head()
  local stored = redis.call('HMGET', HEAD, 'state', 'void')
  local ok, format, epoch, its_run, seq, top_ts, top_id, floor_ts, floor_id, trimmed_ts, trimmed_id, verified_at, n, m, low, alive =
    pcall(cmsgpack.unpack, stored[1])
  if not ok or format ~= FORMAT or type(alive) ~= 'number' then return end
  return { state = stored[1], epoch = epoch, run = its_run, seq = seq, top_ts = top_ts, top_id = top_id, floor_ts = floor_ts,
    floor_id = floor_id, trimmed_ts = trimmed_ts, trimmed_id = trimmed_id, verified_at = verified_at, n = n, m = m, low = low,
    alive = alive, void = stored[2] or '', stored_void = stored[2] or '' }
end

-- Writes what has changed of the head. Whole numbers below 2^53 are written without a loss.
local function save()
  local state = cmsgpack.pack(FORMAT, head.epoch, head.run, head.seq, head.top_ts, head.top_id, head.floor_ts, head.floor_id,
    head.trimmed_ts, head.trimmed_id, head.verified_at, head.n, head.m, head.low, head.alive)
  if state ~= head.state then redis.call('HSET', HEAD, 'state', state) end
  if head.void ~= head.stored_void then redis.call('HSET', HEAD, 'void', head.void) end
  head.state, head.stored_void = state, head.void
end

local begun = 0 -- epochs of this call: no two of one list may have the same name

-- An unknown part of the list may be missing: begins a new epoch, with nothing verified.
local function begin()
  redis.call('DEL', LIST, IDS, HEAD)
  begun = begun + 1
  head = { epoch = begun == 1 and ARGV[1] or ARGV[1] .. '-' .. begun, run = run, seq = 0, top_id = '', floor_id = '', trimmed_ts = 0,
    trimmed_id = '', verified_at = 0, n = 0, m = 0, alive = 0, void = '', stored_void = '' }
  save()
  -- A read of an empty chat creates its keys for minutes only; an addition sets the whole time to live.
  redis.call('EXPIRE', HEAD, math.min(tonumber(ARGV[2]), 600))
end

-- Opens the list whose keys begin at this index of KEYS.
local function open(first)
  LIST, IDS, HEAD = KEYS[first], KEYS[first + 1], KEYS[first + 2]
  head = stored_head()
  if not head or head.run ~= run or redis.pcall('LLEN', LIST) ~= head.n or redis.pcall('ZCARD', IDS) ~= head.m then begin() end
end
