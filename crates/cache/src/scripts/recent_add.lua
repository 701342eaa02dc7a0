-- Adds a message if absent, as the next of the stream, and announces it.
-- ARGV: 3 list max, 4 ids max, 5 id, 6 its bytes, 7 attempt, 8 timestamp, 9 rest, 10 publication prefix, 11… channels.
-- Answers {'new' | 'own' | 'repeat', epoch, seq or nil, original timestamp}.
local id, ts, rest = ARGV[5], ARGV[8], ARGV[9]
local original = redis.call('ZSCORE', IDS, id)
if original then
  local entry = find(ARGV[6])
  local verdict = entry and entry[4] == tonumber(ARGV[7]) and 'own' or 'repeat'
  return { verdict, head.epoch, entry and entry[2] or false, original }
end
append(id, ARGV[6], ts, rest)
trim_list(tonumber(ARGV[3]))
trim_ids(tonumber(ARGV[4]))
keep_alive()
save()
publish_message(ARGV[10], rest, 11, #ARGV)
return { 'new', head.epoch, head.seq, ts }
