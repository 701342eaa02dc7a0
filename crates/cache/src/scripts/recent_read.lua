-- Answers {epoch, seq, floor timestamp or nil, floor id, verified at, now, entries}.
return { head.epoch, head.seq, head.floor_ts or false, head.floor_id, head.verified_at, now,
  redis.call('LRANGE', LIST, 0, -1) }
