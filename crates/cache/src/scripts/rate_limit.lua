#!lua
-- Counts one user's events and allows all of them, if no more than the limit are allowed within a window; otherwise none.
-- KEYS: the user's counts. ARGV: 1 limit, 2 window in ms, 3 the least time to live of the counts in ms, 4 how many events, no more than
-- the limit.
-- Answers {1 or 0, ms until a retry may succeed}.
-- The value is the width of a cell in ms, then cell:count for each cell of the window with a count.
-- A cell that lies only partly in the window counts as a whole, so no window ever sees more than the limit.
-- A cell of the future was counted before the clock stepped back. One that lies a window ahead or more is dropped: a step back delays no
-- user for longer than two windows.
local limit, window, amount = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[4])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local width = math.max(1, math.ceil(window / 20))
local current = math.floor(now / width)

local cells, total = {}, 0
local stored = redis.call('GET', KEYS[1]) or ''
if tonumber(string.match(stored, '^(%d+)')) == width then
  for cell, count in string.gmatch(stored, '(%d+):(%d+)') do
    cell, count = tonumber(cell), tonumber(count)
    if cell >= current - 20 and cell <= current + 20 then
      cells[#cells + 1] = { cell, count }
      total = total + count
    end
  end
end

if total + amount > limit then
  local left, retry = total, window
  for _, cell in ipairs(cells) do
    left = left - cell[2]
    if left + amount <= limit then
      retry = (cell[1] + 21) * width - now
      break
    end
  end
  return { 0, math.max(1, retry) }
end

if #cells > 0 and cells[#cells][1] >= current then
  cells[#cells][2] = cells[#cells][2] + amount
else
  cells[#cells + 1] = { current, amount }
end
local parts = { tostring(width) }
for _, cell in ipairs(cells) do parts[#parts + 1] = string.format('%.0f:%d', cell[1], cell[2]) end
redis.call('SET', KEYS[1], table.concat(parts, ' '), 'PX', math.max(window + width, tonumber(ARGV[3])))
return { 1, 0 }
