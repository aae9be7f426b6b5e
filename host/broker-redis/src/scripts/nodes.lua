-- Reads nodes of a workflow. Needs canvas.lua and parts.lua.
-- ARGV[3] member of the workflow   ARGV[4] number of the first   ARGV[5] how many
-- Returns, per node that exists: its number and what append_job appends, or -1 - its number and the packed gate.
-- Complexity: O(n).

local c = canvas()
local wf, first, out = c.workflow_at(sub(ARGV[3], 1, -7)), tonumber(ARGV[4]), {}
if not wf then return out end
for number = first, math.min(first + tonumber(ARGV[5]), wf.nodes) - 1 do
  local member = c.node_of(wf, number)
  local text = call('GET', P .. 'job:' .. member)
  if text then
    out[#out + 1] = number
    append_job(out, member, text)
  else
    text = call('GET', P .. 'gate:' .. member)
    if text then out[#out + 1], out[#out + 2] = -1 - number, text end
  end
end
return out
