-- Items of one execution whose first event has this number or a higher one.
--
-- ARGV: execution id, number, limit.

local history, start = base .. 'h:' .. ARGV[1], tonumber(ARGV[2])
-- Numbers only grow, so that no item stands behind its number.
local low, high = 0, math.min(start, call('LLEN', history))
while low < high do
  local middle = math.floor((low + high) / 2)
  if unpack_from('<I4', call('LINDEX', history, middle)) < start then
    low = middle + 1
  else
    high = middle
  end
end
return call('LRANGE', history, low, low + tonumber(ARGV[3]) - 1)
