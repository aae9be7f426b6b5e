-- Revokes a job that waits, and cancels the workflow that replaced it; asks the worker of a running one to stop it, or lets
-- it end. Needs rules and canvas.lua.
-- ARGV[3] member   ARGV[4] '1' to stop it, '0' to let it end, '2' to leave it alone
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
if is_over(state) or (state == RUNNING and ARGV[4] == '2') then return state end
allowed_when_full()
local was_cancelled, lets_end = has(r[FLAGS], CANCEL), has(r[FLAGS], LET_END)
if not was_cancelled then r[FLAGS] = r[FLAGS] + CANCEL end
if state == RUNNING then
  -- Once it is to be stopped, it is.
  local let_end = ARGV[4] == '0' and (lets_end or not was_cancelled)
  if let_end and not lets_end then r[FLAGS] = r[FLAGS] + LET_END end
  if lets_end and not let_end then r[FLAGS] = r[FLAGS] - LET_END end
  if ARGV[4] == '1' then to_stop[1] = id_of(member) end
  save(member, r)
else
  canvas().revoke(member, r, REVOKED)
  advance()
end
flush()
tell()
return state
