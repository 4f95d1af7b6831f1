-- One turn of one instance. Returns 1 committed, 0 conflict.
--
-- ARGV: head <d I4 I4 I4> (created_at, expect, number of appends, number of drops), instance id, commit id, record, the
-- execution that must be the current one, '1' when another life begins in its place, the execution that ends and is not
-- kept, a channel and what to publish on it ('' for nothing); then for each append: execution id, item; for each drop: key;
-- for each put: key, row.

local created_at, expect, appends, drops = unpack_from('<dI4I4I4', ARGV[1])
local id, commit_id = ARGV[2], ARGV[3]

local old = call('HGET', instances, id)
local execution, replaces, forgotten = execution_of(ARGV[4]), ARGV[6] == '1', ARGV[7]
local before = old and execution_of(old)
if old then
  local version, _, size = unpack_from(RECORD, old)
  if version ~= expect then
    -- The same commit, sent again because its answer was lost.
    return commit_id == sub(old, RECORD_HEAD + 1, RECORD_HEAD + size) and 1 or 0
  end
  if before ~= ARGV[5] then
    return 0
  end
elseif expect ~= 0 or call('ZSCORE', base .. 'purged', execution) then
  return 0
end

call('HSET', instances, id, ARGV[4])
if not old or replaces then
  call('ZADD', base .. 'listing', created_at, id)
end
if replaces then
  call('UNLINK', base .. 'seen:' .. id)
end
local at = 10
for _ = 1, appends do
  call('RPUSH', base .. 'h:' .. ARGV[at], ARGV[at + 1])
  at = at + 2
end
if forgotten ~= '' then
  call('UNLINK', base .. 'h:' .. forgotten)
  call('ZADD', base .. 'purged', call('TIME')[1], forgotten)
elseif old and before ~= execution then
  call('RPUSH', base .. 'former:' .. id, before)
end
for _ = 1, drops do
  drop_row(ARGV[at])
  at = at + 1
end
for n = at, #ARGV, 2 do
  local key = ARGV[n]
  local there = call('HGET', rows, key)
  if there then
    forget_row(key, there)
  end
  add_row(key, ARGV[n + 1])
end
if ARGV[8] ~= '' then
  redis.pcall('PUBLISH', ARGV[8], ARGV[9]) -- a user without the right to it commits all the same
end
return 1
