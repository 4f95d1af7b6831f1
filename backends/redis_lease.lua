-- Take, renew, release or end rows of one partition, in order. Returns one number each: 1 done, 0 not held as expected.
--
-- ARGV for each lease: row key, <d I4 B> (due_at, expected attempt, whether it ends), expected holder, holder.

local function lease(key, terms, expect_holder, holder)
  local row = call('HGET', rows, key)
  if not row then
    return 0
  end
  local _, attempt, size, kind, group, instance = unpack_from(ROW, row)
  local first = ROW_HEAD + group + instance
  local due_at, expect_attempt, ends = unpack_from('<dI4B', terms)
  if attempt ~= expect_attempt or sub(row, first + 1, first + size) ~= expect_holder then
    return 0
  end
  if ends == 1 then
    forget_row(key, row)
    call('HDEL', rows, key)
    return 1
  end
  local owner, body = sub(row, ROW_HEAD + 1, first), sub(row, first + size + 1)
  call('HSET', rows, key, pack(ROW, due_at, attempt + 1, #holder, kind, group, instance) .. owner .. holder .. body)
  call('ZADD', base .. 'due:' .. sub(owner, 1, group), due_at, key)
  return 1
end

local answers = {}
for n = 1, #ARGV, 4 do
  answers[#answers + 1] = lease(ARGV[n], ARGV[n + 1], ARGV[n + 2], ARGV[n + 3])
end
return answers
