#!lua
-- Records that a device has disconnected. It counts as connected for a grace period, within which its user may reconnect unnoticed.
-- KEYS: 1 every device by expiry, 2 its user's. ARGV: 1 device, 2 ms of the grace period, 3 ms that a user is remembered.
-- An unknown device has been swept already, and its user announced as offline; unless the user is unknown too: then the server has lost its
-- data.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local expiry = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not expiry and redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
expiry = math.min(tonumber(expiry) or math.huge, now + tonumber(ARGV[2]))
redis.call('ZADD', KEYS[1], expiry, ARGV[1])
redis.call('ZADD', KEYS[2], expiry, ARGV[1], -now, 'seen')
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return 1
