-- For what asks only of a list that there is: it makes none. Answers nothing then.
if redis.call('EXISTS', KEYS[3]) == 0 then return false end
