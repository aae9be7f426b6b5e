-- Workflows in steps: staged, filled with nodes, started; and cancelled.

-- Stores a workflow without its nodes.
-- ARGV[2…4] limits   ARGV[5] how long it may be staged, milliseconds   ARGV[6] the packed workflow, see NEW_WORKFLOW
-- ARGV[7…] its packed templates, see TEMPLATE
-- Returns a letter (C created, E existing, X conflict, F queue full, Q too many queues, W too many workflows,
--   B too many bytes of the tenant, M a blob is missing, U unknown)
--   and, behind E and X, an id, behind M a digest.
-- Complexity: O(templates).
register('stage_workflow', '', function(args)
  local c, g = workflows, new_workflows
  local member, nodes, _, _, _, _, parent, idem_key, idem_body, _, spec = unpack_struct(g.NEW_WORKFLOW, args[6])
  local wf = c.at(sub(member, 1, -7))
  if wf and wf.pruned > 0 then return 'U' end
  if wf and wf.state ~= c.STAGED then return 'E' .. wf.id end
  local tenant = tenant_of(member)
  if #idem_key > 0 then
    local code, first = idempotency.known(tenant, idem_key, idem_body)
    if code then return code .. first end
  end
  if wf then return 'C' end
  local templates = {}
  for i = 7, #args do templates[i - 6] = args[i] end
  new_workflows.limit(args)
  local refusal = g.no_room_for(tenant, #parent == 0 and 1 or 0, nodes, templates)
  if refusal then return refusal end
  if not storage.fits(tenant, #spec + g.bytes_of_templates(templates)) then
    flush()
    return 'B'
  end
  g.store_workflow(args[6], templates)
  zadd(P .. 'retain', now + tonumber(args[5]), member .. 'w')
  flush()
  return 'C'
end)

-- Stores nodes of a staged workflow.
-- ARGV[2] member of the workflow   ARGV[3] number of the first node   ARGV[4…] one packed node each, see
--   store_node
-- Returns a letter and an id, as stage_workflow does.
-- Complexity: O(n): one SET per node.
register('stage_nodes', '', function(args)
  local c, g = workflows, new_workflows
  local wf = c.at(sub(args[2], 1, -7))
  if not wf or wf.pruned > 0 then return 'U' end
  if wf.state ~= c.STAGED then return 'E' .. wf.id end
  local first = tonumber(args[3])
  -- All or nothing: nothing is written yet.
  if first + #args - 3 > wf.nodes then return redis.error_reply('ERR a node is beyond those of its workflow') end
  for i = 4, #args do
    local template = g.template_in(args[i])
    if template and template >= wf.templates then
      return redis.error_reply('ERR a node has a template that does not exist')
    end
  end
  local bytes = 0
  for i = 4, #args do bytes = bytes + g.bytes_of(args[i]) end
  if not storage.fits(wf.tenant, bytes) then
    flush()
    return 'B'
  end
  for i = 4, #args do
    local missing = blobs.missing(wf.tenant, g.blobs_of(args[i]))
    if missing then
      flush()
      return 'M' .. blobs.hex(missing)
    end
  end
  for i = 4, #args do g.store_node(wf, first + i - 4, args[i]) end
  flush()
  return 'C'
end)

-- Starts a staged workflow by its member; a letter and an id, as stage_workflow answers. Without `C` nothing was changed.
function new_workflows.start(member)
  local c, g = workflows, new_workflows
  local wf = c.at(sub(member, 1, -7))
  if not wf or wf.pruned > 0 then return 'U' end
  if wf.state ~= c.STAGED then return 'E' .. wf.id end
  local stored = call('HMGET', P .. 'wft:' .. member, 'i', 'r')
  local idem_key, idem_body, idem_ttl = unpack_struct(g.IDEMPOTENCY, stored[1])
  if #idem_key > 0 then
    local code, first = idempotency.known(wf.tenant, idem_key, idem_body)
    if code then return code .. first end
    idempotency.keep(wf.tenant, idem_key, idem_body, idem_ttl, wf.id)
  end
  zrem(P .. 'retain', member .. 'w')
  call('HDEL', P .. 'wft:' .. member, 'i', 'r')
  g.begin(wf, stored[2])
  work.advance()
  return 'C'
end

-- Starts a staged workflow.
-- ARGV[2] its member
-- Returns a letter and an id, as stage_workflow does.
-- Complexity: that of work.advance().
register('start_workflow', '', function(args)
  local answer = new_workflows.start(args[2])
  if answer == 'C' then
    flush()
    notify()
  end
  return answer
end)

-- Cancels a workflow.
-- ARGV[2] its member
-- Returns its state before (as WORKFLOW has it), or -1 when there is no such workflow.
-- Complexity: that of work.advance().
register('cancel_workflow', 'allow-oom', function(args)
  local c = workflows
  local wf = c.at(sub(args[2], 1, -7))
  if not wf or wf.pruned > 0 or wf.state == c.STAGED then return -1 end
  if wf.state ~= c.STARTED then return wf.state end
  c.give_up(wf.prefix, REVOKED)
  work.advance()
  flush()
  notify()
  return c.STARTED
end)
