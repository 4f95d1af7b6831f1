-- What purged instances of one partition have left, some of it. Returns how many pieces there were.
--
-- ARGV: how many at most.

local REMEMBER_SECONDS = 24 * 3600
local purging, purged = base .. 'purging', base .. 'purged'
local limit, removed = tonumber(ARGV[1]), 0
local now = tonumber(call('TIME')[1])

local old = call('ZCOUNT', purged, '-inf', '(' .. now - REMEMBER_SECONDS)
if old > 0 then
  call('ZREMRANGEBYRANK', purged, 0, math.min(old, limit) - 1)
end

while removed < limit do
  local left = call('LINDEX', purging, 0)
  if not left then
    break
  end
  local item
  if sub(left, -7) == ':former' then
    item = call('LPOP', left)
    if item then
      call('UNLINK', base .. 'h:' .. item)
      call('ZADD', purged, now, item)
    end
  else
    item = call('ZRANGE', left, 0, 0)[1]
    if item then
      drop_row(item)
      call('ZREM', left, item)
    end
  end
  if not item then
    call('LPOP', purging)
  end
  removed = removed + 1
end
return removed
