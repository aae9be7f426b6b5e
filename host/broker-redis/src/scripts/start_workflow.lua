-- Starts a staged workflow. Needs idempotency.lua, limits.lua, canvas.lua and growing.lua.
-- ARGV[3…5] limits (not used)   ARGV[6] its member
-- Returns a letter and an id, as stage_workflow.lua does.
-- Complexity: that of advance().

local member = ARGV[6]
local c, g = canvas(), canvas().growing()
local wf = c.workflow_at(sub(member, 1, -7))
if not wf or wf.pruned > 0 then return 'U' end
if wf.state ~= c.STAGED then return 'E' .. wf.id end
local stored = call('HMGET', P .. 'wft:' .. member, 'i', 'r')
local idem_key, idem_body, idem_ttl = unpack_struct(g.IDEMPOTENCY, stored[1])
if #idem_key > 0 then
  local code, first = known(wf.tenant, idem_key, idem_body)
  if code then return code .. first end
  keep_key(wf.tenant, idem_key, idem_body, idem_ttl, wf.id)
end
zrem(P .. 'retain', member .. 'w')
call('HDEL', P .. 'wft:' .. member, 'i', 'r')
g.begin(wf, stored[2])
advance()
flush()
tell()
return 'C'
