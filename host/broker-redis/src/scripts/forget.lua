-- Deletes a job that has ended. Needs rules, canvas.lua and deleting.lua.
-- ARGV[3] member
-- Returns -1 when there is no such job, or it is a node of a workflow that nobody finds; -2 when it is a node; its state.
-- Complexity: O(log N).

local member = ARGV[3]
local r = load(member)
if not r then return -1 end
if has(r[FLAGS], NODE) then
  local wf = canvas().workflow_of(member)
  -- Staged, or half deleted.
  return wf and (wf.state == canvas().STAGED or wf.pruned > 0) and -1 or -2
end
if is_over(r[STATE]) then
  allowed_when_full()
  rules().drop_key(member, r)
  prune_job(retained(member, r[FLAGS]), member)
  flush()
end
return r[STATE]
