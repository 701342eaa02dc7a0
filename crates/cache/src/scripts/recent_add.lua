-- Adds a message if absent, as the next of the stream, and announces it. A message that is known to be durable is no longer subject to
-- retraction, whether or not it was absent; and it is announced now if a repair had inserted it below what was announced: clients that read
-- history before that repair have not seen it.
-- ARGV: 3 list max, 4 ids max, 5 id, 6 its bytes, 7 attempt, 8 timestamp, 9 rest, 10 publication prefix, 11… channels.
-- Answers {'new' | 'own' | 'repeat', epoch, seq or nil, original timestamp}.
open(1)
local id, attempt, ts, rest = ARGV[5], tonumber(ARGV[7]), ARGV[8], ARGV[9]
local original = redis.call('ZSCORE', IDS, id)
if original then
  local entry, index, bytes = find(ARGV[6])
  local verdict = 'repeat'
  if entry and attempt == DURABLE and not entry[2] then
    redis.call('LREM', LIST, 1, bytes)
    local stored = string.sub(bytes, #ENTRY + #NIL + 1)
    append(id, ARGV[6], entry[5], stored)
    keep_alive()
    save()
    publish_message(ARGV[10], stored, 11, #ARGV)
    return { 'new', head.epoch, head.seq, original }
  elseif entry and attempt == DURABLE then
    keep(entry, index, bytes)
  elseif entry and entry[4] == attempt then
    verdict = 'own'
  end
  return { verdict, head.epoch, entry and entry[2] or false, original }
end
-- The attempt was retracted before this addition arrived (its connection was closed meanwhile): no caller waits for the answer.
if head.void ~= '' and string.find(head.void, mark(ARGV[6], attempt), 1, true) then
  return { 'repeat', head.epoch, false, ts }
end
append(id, ARGV[6], ts, rest)
trim_list(tonumber(ARGV[3]))
trim_ids(tonumber(ARGV[4]))
keep_alive()
save()
publish_message(ARGV[10], rest, 11, #ARGV)
return { 'new', head.epoch, head.seq, ts }
