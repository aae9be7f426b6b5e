-- Stores a workflow without its nodes. Needs limits.lua, idempotency.lua, canvas.lua and growing.lua.
-- ARGV[3…5] limits   ARGV[6] how long it may be staged, milliseconds   ARGV[7] the packed workflow, see NEW_WORKFLOW
-- ARGV[8…] its packed templates, see TEMPLATE
-- Returns a letter (C created, E existing, X conflict, F queue full, Q too many queues, W too many workflows, U unknown)
--   and, behind E and X, an id.
-- Complexity: O(templates).

local c, g = canvas(), canvas().growing()
local member, nodes, _, _, _, _, parent, idem_key, idem_body = unpack_struct(g.NEW_WORKFLOW, ARGV[7])
local wf = c.workflow_at(sub(member, 1, -7))
if wf and wf.pruned > 0 then return 'U' end
if wf and wf.state ~= c.STAGED then return 'E' .. wf.id end
local tenant = tenant_of(member)
if #idem_key > 0 then
  local code, first = known(tenant, idem_key, idem_body)
  if code then return code .. first end
end
if wf then return 'C' end
local templates = {}
for i = 8, #ARGV do templates[i - 7] = ARGV[i] end
local refusal = g.no_room_for(tenant, #parent == 0 and 1 or 0, nodes, templates)
if refusal then return refusal end
g.store_workflow(ARGV[7], templates)
zadd(P .. 'retain', now + tonumber(ARGV[6]), member .. 'w')
flush()
return 'C'
