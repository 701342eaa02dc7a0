-- Answers {epoch, seq, floor timestamp or nil, floor id, trimmed timestamp, trimmed id, verified at, now, entries}.
open(1)
return { head.epoch, head.seq, head.floor_ts or false, head.floor_id, head.trimmed_ts, head.trimmed_id, head.verified_at, now,
  redis.call('LRANGE', LIST, 0, -1) }
