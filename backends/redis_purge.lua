-- Finished instances of one partition, out of sight. Returns one number each: 0 gone, 1 kept, 2 absent.
--
-- ARGV for each instance: instance id, the execution that must be the current one.
--
-- Redis frees a whole history in the background (UNLINK). What has to be taken apart, earlier executions and facts that
-- nobody took, is renamed, so that a new instance of this id never meets it, and left to `redis_clear.lua`.

local AT_ONCE = 100 -- rows of one inbox
local now = tonumber(call('TIME')[1])

local function set_aside(key, execution, kind)
  if call('EXISTS', key) == 1 then
    local left = base .. 'left:' .. execution .. ':' .. kind
    call('RENAME', key, left)
    call('RPUSH', base .. 'purging', left)
  end
end

local function purge(id, execution)
  local record = call('HGET', instances, id)
  if not record then
    return 2
  end
  local _, finished = unpack_from(RECORD, record)
  if finished ~= 1 or execution_of(record) ~= execution then
    return 1
  end
  -- First what frees: a full Redis refuses what needs room until a script has written, and purging is the way to room.
  call('HDEL', instances, id)
  call('ZADD', base .. 'purged', now, execution)
  call('ZREM', base .. 'listing', id)
  call('UNLINK', base .. 'seen:' .. id, base .. 'h:' .. execution)
  set_aside(base .. 'former:' .. id, execution, 'former')
  for _, key in ipairs(call('ZRANGE', base .. 'in:' .. id, 0, AT_ONCE - 1)) do
    drop_row(key)
  end
  set_aside(base .. 'in:' .. id, execution, 'inbox')
  return 0
end

local answers = {}
for n = 1, #ARGV, 2 do
  answers[#answers + 1] = purge(ARGV[n], ARGV[n + 1])
end
return answers
