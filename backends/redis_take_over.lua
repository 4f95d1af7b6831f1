-- What one consumer of a group holds becomes another's, a page a call; who holds nothing any more is removed.
-- In one script, so that of two who take nobody gets what the other has, and nobody is removed who holds something.
--
-- KEYS[1] stream. ARGV: group, whose, to whom, how many at most.
-- Returns whether there may be more, and the entries. What was trimmed from the stream is acknowledged.

local stream, group, whose, to, limit = KEYS[1], ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local call = redis.call

local taken = {}
local pending = call('XPENDING', stream, group, '-', '+', limit, whose)
for _, held in ipairs(pending) do
  local id = held[1]
  local entry = call('XRANGE', stream, id, id)[1]
  if entry then
    call('XCLAIM', stream, group, to, 0, id, 'JUSTID')
    taken[#taken + 1] = entry
  else
    call('XACK', stream, group, id)
  end
end
if #pending < limit then
  call('XGROUP', 'DELCONSUMER', stream, group, whose)
end
return {#pending == limit and 1 or 0, taken}
