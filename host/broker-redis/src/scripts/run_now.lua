-- Queues a scheduled or retrying job now. Needs canvas.lua.
-- ARGV[3] member
-- Returns its state before, or -1 when there is no such job.
-- Complexity: O(log N).

local member = ARGV[3]
local r = load(member)
if not r then return -1 end
local state = r[STATE]
-- One that has expired is left to the promoter.
if (state == SCHEDULED or state == RETRYING) and (r[EXPIRES] == 0 or r[EXPIRES] > now) then
  local line = line_of(tenant_of(member), queue_in(r[FIXED]))
  leave(member, r, line)
  r[SCORE] = new_score(r[PRIORITY])
  enqueue(member, r, line)
  save(member, r)
  flush()
  tell()
end
return state
