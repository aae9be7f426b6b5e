-- Events of a tenant.
-- ARGV[3] tenant   ARGV[4] the number after which to begin   ARGV[5] max
-- Returns { number of the last event, of the first that is kept, of the first that is answered, event… }, or { 0 } when
--   nobody follows. An event is the time (6 bytes), the state, the id and the task.
-- Complexity: O(events that are kept).

local following = following_of(ARGV[3])
if not following then return { 0 } end
local key, max = P .. 'events:' .. ARGV[3], tonumber(ARGV[5])
local first = following.last + 1 - call('LLEN', key)
local from = math.max(tonumber(ARGV[4]) + 1 - first, 0)
local out = { following.last, first, first + from }
local found = max > 0 and call('LRANGE', key, from, from + max - 1) or {}
for i = 1, #found do out[3 + i] = found[i] end
return out
