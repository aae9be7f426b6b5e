-- Stores nodes of a staged workflow. Needs limits.lua, canvas.lua and growing.lua.
-- ARGV[3…5] limits (not used)   ARGV[6] member of the workflow   ARGV[7] number of the first node   ARGV[8…] one packed
--   node each, see store_node
-- Returns a letter and an id, as stage_workflow.lua does.
-- Complexity: O(n): one SET per node.

local c, g = canvas(), canvas().growing()
local wf = c.workflow_at(sub(ARGV[6], 1, -7))
if not wf or wf.pruned > 0 then return 'U' end
if wf.state ~= c.STAGED then return 'E' .. wf.id end
local first = tonumber(ARGV[7])
-- All or nothing: nothing is written yet.
if first + #ARGV - 7 > wf.nodes then return redis.error_reply('ERR a node is beyond those of its workflow') end
for i = 8, #ARGV do
  local template = g.template_in(ARGV[i])
  if template and template >= wf.templates then
    return redis.error_reply('ERR a node has a template that does not exist')
  end
end
for i = 8, #ARGV do g.store_node(wf, first + i - 8, ARGV[i]) end
flush()
return 'C'
