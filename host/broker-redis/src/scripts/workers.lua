-- Keeps, forgets and lists workers.
-- ARGV[3] time to live, milliseconds   ARGV[4] id, or '' to list   ARGV[5] what it says of itself, or '' to forget it
-- Returns what the workers alive say, in no order; of one that says something the order to it, if there is one.
-- Complexity: O(number of workers) to list, O(log N) otherwise.

local seen, infos, orders = P .. 'workers_seen', P .. 'workers', P .. 'orders'

local function forget(id)
  call('HDEL', infos, id)
  call('HDEL', orders, id)
  call('ZREM', seen, id)
end

-- The silent are forgotten whenever anybody comes.
for _, id in ipairs(call('ZRANGEBYSCORE', seen, '-inf', now - tonumber(ARGV[3]), 'LIMIT', 0, 1000)) do forget(id) end
if ARGV[4] == '' then return call('HVALS', infos) end
if ARGV[5] == '' then
  forget(ARGV[4])
  return {}
end
allowed_when_full()
call('HSET', infos, ARGV[4], ARGV[5])
call('ZADD', seen, now, ARGV[4])
return { call('HGET', orders, ARGV[4]) or '' }
