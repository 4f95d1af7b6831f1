-- A consumer lives; returns the names of all that do. Redis's own clock decides: nobody compares others.
--
-- KEYS[1] zset of names by their last beat. ARGV: name, milliseconds after which a silent one is forgotten.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('ZADD', KEYS[1], now, ARGV[1])
return redis.call('ZRANGE', KEYS[1], 0, -1)
