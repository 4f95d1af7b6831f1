-- One turn of one instance. Returns 1 committed, 0 conflict.
--
-- ARGV: head <d I4 I4 I4> (created_at, expect, number of appends, number of drops), instance id, commit id, record;
-- then for each append: execution id, item; for each drop: key; for each put: key, row.

local created_at, expect, appends, drops = unpack_from('<dI4I4I4', ARGV[1])
local id, commit_id = ARGV[2], ARGV[3]

local old = call('HGET', instances, id)
if old then
  local version, _, size = unpack_from(RECORD, old)
  if version ~= expect then
    -- The same commit, sent again because its answer was lost.
    return commit_id == sub(old, RECORD_HEAD + 1, RECORD_HEAD + size) and 1 or 0
  end
elseif expect ~= 0 then
  return 0
end

call('HSET', instances, id, ARGV[4])
if not old then
  call('ZADD', base .. 'listing', created_at, id)
end
local at = 5
for _ = 1, appends do
  call('RPUSH', base .. 'h:' .. ARGV[at], ARGV[at + 1])
  at = at + 2
end
for _ = 1, drops do
  drop_row(ARGV[at])
  at = at + 1
end
for n = at, #ARGV, 2 do
  local key = ARGV[n]
  local before = call('HGET', rows, key)
  if before then
    forget_row(key, before)
  end
  add_row(key, ARGV[n + 1])
end
return 1
