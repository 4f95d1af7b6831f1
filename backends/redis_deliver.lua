-- Facts for inboxes of one partition, in order. Returns one number each: 0 new, 1 duplicate, 2 absent, 3 finished,
-- 4 parked.
--
-- ARGV: partition, then for each fact: instance id, due_at, digest of the fact's id and whether to park it <d c16 B>, body.

local PARKED = '@parked'
local REMEMBER_SECONDS, REMEMBER_FACTS = 24 * 3600, 1000

-- Forget the ids that are both older than a day and not among the newest thousand of their instance.
local function forget_ids(seen, now)
  local surplus = call('ZCARD', seen) - REMEMBER_FACTS
  if surplus > 0 then
    local old = call('ZCOUNT', seen, '-inf', '(' .. now - REMEMBER_SECONDS)
    if old > 0 then
      call('ZREMRANGEBYRANK', seen, 0, math.min(old, surplus) - 1)
    end
  end
end

local now = tonumber(call('TIME')[1])

local function deliver(id, mark, body)
  local due_at, digest, park = unpack_from('<dc16B', mark)
  local seen = base .. 'seen:' .. id
  if call('ZSCORE', seen, digest) then
    return 1
  end
  local record = call('HGET', instances, id)
  local group, answer = PARKED, 4
  if record then
    local _, finished, commit_id, execution, size = unpack_from(RECORD, record)
    if finished == 0 then
      local first = RECORD_HEAD + commit_id + execution
      group, answer = sub(record, first + 1, first + size), 0
    elseif park == 0 then
      return 3
    end
  elseif park == 0 then
    return 2
  end
  call('ZADD', seen, now, digest)
  forget_ids(seen, now)
  -- The partition makes the key unique in the workspace.
  local key = string.format('in/%016d/%s', call('INCR', base .. 'deliveries'), ARGV[1])
  add_row(key, pack(ROW, due_at, 0, 0, INBOX, #group, #id) .. group .. id .. body)
  return answer
end

local answers = {}
for n = 2, #ARGV, 3 do
  answers[#answers + 1] = deliver(ARGV[n], ARGV[n + 1], ARGV[n + 2])
end
return answers
