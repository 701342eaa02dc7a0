-- Adds messages of one or more chats, each if absent, as the next of its chat's stream, and announces them. A message that is known to be
-- durable is no longer subject to retraction, whether or not it was absent; and it is announced now if a repair had inserted it below what
-- was announced: clients that read history before that repair have not seen it.
-- ARGV: 3 list max, 4 the length at which a list is trimmed to that, 5 and 6 the same of the ids; then of each message: the index of its
-- chat's first key, id, its bytes, attempt, timestamp, rest, publication prefix, how many channels, then these.
-- Answers for each message {'new' | 'own' | 'repeat', epoch, seq or nil, original timestamp}, or {'error', why, nil, 0}: it fails alone.
local MAX, TRIM_AT, IDS_MAX, IDS_TRIM_AT = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local heads = {} -- of the lists that this call has opened, by the index of their first key

local function enter(first)
  head = heads[first]
  if head and head.run == run then
    LIST, IDS, HEAD = KEYS[first], KEYS[first + 1], KEYS[first + 2]
  else
    open(first)
    heads[first] = head
  end
end

local function announce(at, rest)
  publish_message(ARGV[at + 6], rest, at + 8, at + 7 + tonumber(ARGV[at + 7]))
end

-- Adds the message whose arguments begin at this index of ARGV.
local function add(at)
  local id, bytes, attempt, ts, rest = ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3]), ARGV[at + 4], ARGV[at + 5]
  assert(#bytes == 16 and attempt and tonumber(ts), 'a malformed message')
  enter(tonumber(ARGV[at]))
  local original = redis.call('ZSCORE', IDS, id)
  if original then
    local entry, index, listed_as = find(bytes)
    local verdict = 'repeat'
    if entry and attempt == DURABLE and not entry[2] then
      redis.call('LREM', LIST, 1, listed_as)
      local stored = string.sub(listed_as, #ENTRY + #NIL + 1)
      append(id, bytes, entry[5], stored)
      keep_alive()
      save()
      announce(at, stored)
      return { 'new', head.epoch, head.seq, original }
    elseif entry and attempt == DURABLE then
      keep(entry, index, listed_as)
    elseif entry and entry[4] == attempt then
      verdict = 'own'
    end
    return { verdict, head.epoch, entry and entry[2] or false, original }
  end
  -- The attempt was retracted before this addition arrived (its connection was closed meanwhile): no caller waits for the answer.
  if head.void ~= '' and string.find(head.void, mark(bytes, attempt), 1, true) then
    return { 'repeat', head.epoch, false, ts }
  end
  append(id, bytes, ts, rest)
  if head.n >= TRIM_AT then trim_list(MAX) end
  if head.m >= IDS_TRIM_AT then trim_ids(IDS_MAX) end
  keep_alive()
  save()
  announce(at, rest)
  return { 'new', head.epoch, head.seq, ts }
end

local answers, at = {}, 7
while at <= #ARGV do
  local ok, answer = pcall(add, at)
  if not ok then
    heads[tonumber(ARGV[at])] = nil -- whatever it left behind is judged when the list is opened again
    answer = { 'error', type(answer) == 'table' and answer.err or answer, false, 0 }
  end
  answers[#answers + 1] = answer
  at = at + 8 + tonumber(ARGV[at + 7])
end
return answers
