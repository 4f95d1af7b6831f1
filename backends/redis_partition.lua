-- Comes before every script: what a partition looks like in Redis.
--
-- KEYS[1] begins every key of one partition, and holds its hash tag: `durable:{shop:17}:`. Only keys made from it are
-- touched, so all of a script is on one node. What a script was given decides nothing but values: no text of a user
-- becomes script. Events, summaries and bodies are opaque: nothing here decodes them.
--
--   instances      hash    instance id -> record
--   h:<execution>  list    number of the first event, events; one item a commit
--   rows           hash    row key -> row
--   due:<group>    zset    row key by due time
--   in:<instance>  zset    keys of its inbox rows, in delivery order; what the engine put there itself comes first
--   seen:<instance> zset   digests of the ids of facts delivered to it, by the time of delivery
--   deliveries     string  counts the facts delivered
--   listing        zset    instance id by time of creation; set once a life, never changed
--   former:<instance> list  its executions before the current one
--   purged         zset    executions that were purged or forgotten, by when; remembered for a day
--   purging        list    keys that purged instances have left (former:, in:), renamed to `left:<execution>:<kind>`
--
--   record   <I4 B H H H>  version, finished, sizes of the next three; commit id, execution id, group; summary
--   row      <d I4 H c H H>  due_at, attempt, size of holder, kind, sizes of group and instance id;
--                          group, instance id, holder; body
--
-- A script does not roll back. So each decides before it writes, and every write here can only fail as a first one:
-- Redis refuses for lack of memory, on a replica or a full disk before a script has written, not half way.

local base = KEYS[1]
local instances, rows = base .. 'instances', base .. 'rows'
local call, pack, unpack_from, sub = redis.call, struct.pack, struct.unpack, string.sub

local ROW, ROW_HEAD = '<dI4Hc1HH', 19
local RECORD, RECORD_HEAD = '<I4BHHH', 11
local INBOX = 'i'
local CHUNK = 500 -- values on Lua's stack at once; it fails at about 8,000

local function execution_of(record)
  local _, _, commit_id, execution = unpack_from(RECORD, record)
  local first = RECORD_HEAD + commit_id
  return sub(record, first + 1, first + execution)
end

-- Whose row it is: group, instance id, kind.
local function owner_of(row)
  local _, _, _, kind, group, instance = unpack_from(ROW, row)
  local middle = ROW_HEAD + group
  return sub(row, ROW_HEAD + 1, middle), sub(row, middle + 1, middle + instance), kind
end

local function forget_row(key, row)
  local group, instance, kind = owner_of(row)
  call('ZREM', base .. 'due:' .. group, key)
  if kind == INBOX then
    call('ZREM', base .. 'in:' .. instance, key)
  end
end

local function drop_row(key)
  local row = call('HGET', rows, key)
  if row then
    forget_row(key, row)
    call('HDEL', rows, key)
  end
end

-- Put a row whose key is free.
local function add_row(key, row)
  local due_at, _, _, kind, group, instance = unpack_from(ROW, row)
  local middle = ROW_HEAD + group
  call('HSET', rows, key, row)
  call('ZADD', base .. 'due:' .. sub(row, ROW_HEAD + 1, middle), due_at, key)
  if kind == INBOX then
    local number = sub(key, 1, 3) == 'in/' and tonumber(string.match(key, '^in/(%d+)')) or 0
    call('ZADD', base .. 'in:' .. sub(row, middle + 1, middle + instance), number, key)
  end
end

-- The rows of these keys, false for one that is gone, appended to `found`.
local function fetch_rows(keys, found)
  for first = 1, #keys, CHUNK do
    local some = call('HMGET', rows, unpack(keys, first, math.min(first + CHUNK - 1, #keys)))
    for n = 1, #some do
      found[#found + 1] = some[n]
    end
  end
end

-- By bytes, as Redis orders the members of a set: Lua's `<` on texts would ask the locale of the server.
local function less(one, other)
  for n = 1, math.min(#one, #other) do
    local a, b = string.byte(one, n), string.byte(other, n)
    if a ~= b then
      return a < b
    end
  end
  return #one < #other
end

-- How many members of a sorted set stand before this place: lower score, or equal score and lower bytes.
local function count_before(set, score, member)
  local low, high = call('ZCOUNT', set, '-inf', '(' .. score), call('ZCOUNT', set, '-inf', score)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if less(call('ZRANGE', set, middle, middle)[1], member) then
      low = middle + 1
    else
      high = middle
    end
  end
  return low
end
