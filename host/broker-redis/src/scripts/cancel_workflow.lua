-- Cancels a workflow. Needs canvas.lua.
-- ARGV[3] its member
-- Returns its state before (as WORKFLOW has it), or -1 when there is no such workflow.
-- Complexity: that of advance().

local c = canvas()
local wf = c.workflow_at(sub(ARGV[3], 1, -7))
if not wf or wf.pruned > 0 or wf.state == c.STAGED then return -1 end
if wf.state ~= c.STARTED then return wf.state end
allowed_when_full()
c.give_up(wf.prefix, REVOKED)
advance()
flush()
tell()
return c.STARTED
