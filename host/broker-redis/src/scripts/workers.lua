-- Keeps, forgets and lists workers.
-- ARGV[3] time to live, milliseconds   ARGV[4] id, or '' to list   ARGV[5] what it says of itself, or '' to forget it
-- Returns what the workers alive say, in no order; nothing when an id was given.
-- Complexity: O(number of workers) to list, O(log N) otherwise.

local seen, infos = P .. 'workers_seen', P .. 'workers'
-- The silent are forgotten whenever anybody comes.
for _, id in ipairs(call('ZRANGEBYSCORE', seen, '-inf', now - tonumber(ARGV[3]), 'LIMIT', 0, 1000)) do
  call('HDEL', infos, id)
  call('ZREM', seen, id)
end
if ARGV[4] == '' then return call('HVALS', infos) end
if ARGV[5] == '' then
  call('HDEL', infos, ARGV[4])
  call('ZREM', seen, ARGV[4])
else
  allowed_when_full()
  call('HSET', infos, ARGV[4], ARGV[5])
  call('ZADD', seen, now, ARGV[4])
end
return {}
