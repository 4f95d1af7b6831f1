-- Give deliveries of one queue back, each as a new entry at its end: whoever is blocked on the queue gets it at once.
-- What came back too often stays where it is, and is returned for the caller to bury. Of an entry with too many fields,
-- which is not of ours, only the event comes back.
--
-- KEYS[1] stream. ARGV: group, how often one may come back, consumer, then ids.
-- With a consumer all that it holds is given back, a page a call, and in the end it is deleted; it has no ids then.
-- Returns whether there may be more, and {id, body, id, body, ...} of what is to be buried.

local PAGE = 500
local MOST = 4000 -- names and values of an entry; Lua can't put many more on its stack, and fails after the XACK then
local stream, group, limit, consumer = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3]
local call = redis.call

local ids = {}
if consumer ~= '' then
  for _, pending in ipairs(call('XPENDING', stream, group, '-', '+', PAGE, consumer)) do
    ids[#ids + 1] = pending[1]
  end
  if #ids == 0 then
    call('XGROUP', 'DELCONSUMER', stream, group, consumer)
  end
else
  for n = 4, #ARGV do
    ids[#ids + 1] = ARGV[n]
  end
end

local buried = {}
for _, id in ipairs(ids) do
  local found = call('XRANGE', stream, id, id)[1]
  local fields = found and found[2] or {}
  local returns, body, kept = 0, '', {}
  for n = 1, #fields, 2 do
    if fields[n] == 'returns' then
      returns = tonumber(fields[n + 1]) or 0
    else
      body = fields[n] == 'event' and fields[n + 1] or body
      kept[#kept + 1] = fields[n]
      kept[#kept + 1] = fields[n + 1]
    end
  end
  if #kept > MOST then
    kept = {'event', body}
  end
  if found and returns >= limit then
    buried[#buried + 1] = id
    buried[#buried + 1] = body
  elseif call('XACK', stream, group, id) == 1 and found then
    call('XDEL', stream, id)
    kept[#kept + 1] = 'returns'
    kept[#kept + 1] = returns + 1
    call('XADD', stream, '*', unpack(kept))
  end
end
return {consumer ~= '' and #ids > 0 and 1 or 0, buried}
