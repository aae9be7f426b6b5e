-- Says that somebody follows a tenant's jobs, see the broker's events.rs.
-- ARGV[3] tenant   ARGV[4] how long, milliseconds
-- Returns the number of the last event, or one less than that of the first one.
-- Complexity: O(1).

-- Also when there is no room: that is when somebody wants to see what goes on.
allowed_when_full()
local tenant = ARGV[3]
local following, last = following_of(tenant), nil
if following then
  last = following.last
else
  -- Whatever was left of another following would be numbered wrongly.
  call('UNLINK', P .. 'events:' .. tenant)
  last = math.max(now * 1000, tonumber(call('GET', P .. 'last_event') or 0) + 1) - 1
end
call('HSET', P .. 'followed', tenant, string.format('%.0f %.0f', now + tonumber(ARGV[4]), last))
call('HSET', P .. 'special', ',', 1)
return last
