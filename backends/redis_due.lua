-- Rows of one group, soonest first. Returns {keys, rows}.
--
-- ARGV: group, until, limit, and where to go on: due_at and key of the last row seen, or nothing.

local due, keys = base .. 'due:' .. ARGV[1], nil
local limit = tonumber(ARGV[3])
if ARGV[4] then
  local first = count_before(due, ARGV[4], ARGV[5])
  local found = call('ZRANGE', due, first, first + limit, 'WITHSCORES')
  local until_ = tonumber(ARGV[2])
  keys = {}
  for n = 1, #found, 2 do
    if tonumber(found[n + 1]) <= until_ and found[n] ~= ARGV[5] and #keys < limit then
      keys[#keys + 1] = found[n]
    end
  end
else
  keys = call('ZRANGEBYSCORE', due, '-inf', ARGV[2], 'LIMIT', 0, limit)
end
local found = {}
fetch_rows(keys, found)
return {keys, found}
