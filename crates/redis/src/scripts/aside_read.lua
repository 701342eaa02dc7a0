-- Reads an entry and hands out the lease on loading it, which one caller at a time can hold.
--
-- KEYS: the entry, its lease. ARGV: the token to lease it with (empty: only read), the lease's length in ms, '1' to lease what is
-- stale too, '1' to pass over the entry as if it were missing.
-- Answers { kind ('V' a value, 'A' known to be absent, '' missing), ms until it is stale (0 or less: stale), ms until it
-- expires, its age in ms, payload, 1 if leased }.
-- An entry is its kind, fresh-until and time of fill (ms of this server's clock, 8 bytes each), and the payload. Anything else
-- counts as missing.

local record = redis.call('GET', KEYS[1])
local kind = record and #record >= 17 and string.sub(record, 1, 1) or ''
if ARGV[4] == '1' or (kind ~= 'V' and kind ~= 'A') then
  kind = ''
end
local fresh_for, expires_in, age, payload = 0, 0, 0, ''
if kind ~= '' then
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local fresh_until, filled_at = struct.unpack('>I8I8', record, 2)
  age = now - filled_at
  -- A negative age: filled before the clock stepped back. Its age is unknown, so it is not fresh.
  fresh_for = age >= 0 and fresh_until - now or 0
  age = math.max(age, 0)
  expires_in = redis.call('PTTL', KEYS[1])
  payload = string.sub(record, 18)
end
local leased = 0
if ARGV[1] ~= '' and (kind == '' or (fresh_for <= 0 and ARGV[3] == '1')) then
  if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then
    leased = 1
  end
end
return { kind, fresh_for, expires_in, age, payload, leased }
