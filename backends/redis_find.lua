-- Instances of one partition, newest first. Returns {ids, times of creation, records}; looks at no more than `limit`.
--
-- ARGV: created_after (inclusive), created_before (exclusive), limit, and where to go on: time of creation and id of
-- the last instance seen, or nothing.

local listing = base .. 'listing'
local last = call('ZCOUNT', listing, '-inf', '(' .. ARGV[2])
if ARGV[4] then
  last = math.min(last, count_before(listing, ARGV[4], ARGV[5]))
end
local first = math.max(last - tonumber(ARGV[3]), call('ZCOUNT', listing, '-inf', '(' .. ARGV[1]))
local ids, times, records = {}, {}, {}
if first < last then
  local found = call('ZRANGE', listing, first, last - 1, 'WITHSCORES')
  for n = #found, 1, -2 do
    ids[#ids + 1] = found[n - 1]
    times[#times + 1] = found[n]
  end
  for n = 1, #ids, CHUNK do
    local some = call('HMGET', instances, unpack(ids, n, math.min(n + CHUNK - 1, #ids)))
    for m = 1, #some do
      records[#records + 1] = some[m]
    end
  end
end
return {ids, times, records}
