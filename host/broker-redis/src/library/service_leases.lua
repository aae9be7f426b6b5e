-- Leases of background services: of all processes on a store one polls for each service.

-- An end that is further away was written before the clock was set back, milliseconds.
local LONGEST = 60000

-- Takes or prolongs the lease of a service. Also when Redis is full: reaping and pruning make room.
-- ARGV[2] service   ARGV[3] process   ARGV[4] duration from now, milliseconds; 0 gives the lease up
-- Returns how long another process still holds it, milliseconds; -1 when this one does.
-- Complexity: O(1). The hash `meta:services_v1` holds '<end of the lease> <process>' by service. Audits of older releases
-- know what begins with `meta`.
register('hold_service', 'allow-oom', function(args)
  local leases = P .. 'meta:services_v1'
  local till, holder = string.match(call('HGET', leases, args[2]) or '', '^(%d+) (.*)$')
  local left = (tonumber(till) or 0) - now
  if holder ~= args[3] and left > 0 and left <= LONGEST then return left end
  call('HSET', leases, args[2], string.format('%.0f ', now + tonumber(args[4])) .. args[3])
  return -1
end)
