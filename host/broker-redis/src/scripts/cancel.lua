-- Revokes a job that waits, and cancels the workflow that replaced it; asks the worker of a running one to stop it. Needs
-- canvas.lua.
-- ARGV[3] member
-- Returns its state before, or -1 when there is no such job, or it is a node of a workflow that nobody finds.
-- Complexity: O(log N), and that of advance().

local member = ARGV[3]
local r = load(member)
if not r then return -1 end
if has(r[FLAGS], NODE) then
  local c = canvas()
  local wf = c.workflow_of(member)
  -- Staged, or half deleted.
  if wf and (wf.state == c.STAGED or wf.pruned > 0) then return -1 end
end
local state = r[STATE]
if is_over(state) then return state end
allowed_when_full()
if not has(r[FLAGS], CANCEL) then r[FLAGS] = r[FLAGS] + CANCEL end
if state == RUNNING then
  to_stop[1] = id_of(member)
  save(member, r)
else
  canvas().revoke(member, r, REVOKED)
  advance()
end
flush()
tell()
return state
