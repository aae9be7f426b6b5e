-- Revokes a job that waits; asks the worker of a running one to stop it.
-- ARGV[3] member
-- Returns its state before, or -1 when there is no such job.
-- Complexity: O(log N).

local member = ARGV[3]
local r = load(member)
if not r then return -1 end
local state = r[STATE]
if state >= SUCCEEDED then return state end
allowed_when_full()
if not has(r[FLAGS], CANCEL) then r[FLAGS] = r[FLAGS] + CANCEL end
if state == RUNNING then
  call('PUBLISH', P .. 'cancel', id_of(member))
else
  leave(member, r, line_of(tenant_of(member), queue_in(r[FIXED])))
  finish(member, r, REVOKED)
end
save(member, r)
flush()
tell()
return state
