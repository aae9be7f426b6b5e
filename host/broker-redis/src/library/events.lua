-- Event subscriptions.

-- Subscribes to what happens to a tenant's jobs, see the broker's events.rs. Also when Redis is full: that is when somebody
-- wants to see what goes on.
-- ARGV[2] tenant   ARGV[3] how long, milliseconds
-- Returns the number of the last event, or one less than that of the first one.
-- Complexity: O(1).
register('follow', 'allow-oom', function(args)
  local tenant = args[2]
  local subscription, last = subscription_of(tenant), nil
  if subscription then
    last = subscription.last
  else
    -- Whatever was left of another subscription would be numbered wrongly.
    call('UNLINK', P .. 'events:' .. tenant)
    last = math.max(now * 1000, tonumber(call('GET', P .. 'last_event') or 0) + 1) - 1
  end
  call('HSET', P .. 'followed', tenant, string.format('%.0f %.0f', now + tonumber(args[3]), last))
  call('HSET', P .. 'special', ',', 1)
  return last
end)

-- Events of a tenant.
-- ARGV[2] tenant   ARGV[3] the number after which to begin   ARGV[4] max
-- Returns { number of the last event, of the first that is kept, of the first that is answered, event… }, or { 0 } when
--   nobody subscribed. An event is the time (6 bytes), the state, the id and the task.
-- Complexity: O(events that are kept).
register('events', 'allow-oom', function(args)
  local subscription = subscription_of(args[2])
  if not subscription then return { 0 } end
  local key, max = P .. 'events:' .. args[2], tonumber(args[4])
  local first = subscription.last + 1 - call('LLEN', key)
  local from = math.max(tonumber(args[3]) + 1 - first, 0)
  local out = { subscription.last, first, first + from }
  local found = max > 0 and call('LRANGE', key, from, from + max - 1) or {}
  for i = 1, #found do out[3 + i] = found[i] end
  return out
end)
