-- One instance at one moment. Returns false for an unknown one, else
-- {record, history or false when its version is the known one, keys of its inbox, rows of its inbox}.
--
-- ARGV: instance id, known version.

local record = call('HGET', instances, ARGV[1])
if not record then
  return false
end
local version, _, commit_id, execution = unpack_from(RECORD, record)
local first = RECORD_HEAD + commit_id
local history = false
if version ~= tonumber(ARGV[2]) then
  history = call('LRANGE', base .. 'h:' .. sub(record, first + 1, first + execution), 0, -1)
end
local keys = call('ZRANGE', base .. 'in:' .. ARGV[1], 0, -1)
local inbox = {}
fetch_rows(keys, inbox)
return {record, history, keys, inbox}
