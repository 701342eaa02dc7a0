-- For scripts that only read an existing list: if there is none, they create none and answer nothing.
if redis.call('EXISTS', KEYS[3]) == 0 then return false end
