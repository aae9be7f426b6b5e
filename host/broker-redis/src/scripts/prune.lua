-- Deletes jobs whose retention has passed, with all that belongs to them, and idempotency keys that are over.
-- ARGV[3] max jobs   ARGV[4] max idempotency keys
-- Returns the number of jobs deleted.
-- Complexity: O(m log N) for m jobs deleted.

local keys = call('ZRANGEBYSCORE', P .. 'idem_due', '-inf', now, 'LIMIT', 0, tonumber(ARGV[4]))
for _, name in ipairs(keys) do
  call('DEL', P .. 'idem:' .. name)
  zrem(P .. 'idem_due', name)
end

local due = call('ZRANGEBYSCORE', P .. 'retain', '-inf', now, 'LIMIT', 0, tonumber(ARGV[3]))
for _, member in ipairs(due) do
  local tenant, id = tenant_of(member), id_of(member)
  call('UNLINK', P .. 'job:' .. member, P .. 'spec:' .. member, P .. 'history:' .. member, P .. 'log:' .. member)
  zrem(P .. 'retain', member)
  zrem(P .. 'jobs:' .. tenant, id)
  zrem(P .. 'dead:' .. tenant, id)
end
flush()
return #due
