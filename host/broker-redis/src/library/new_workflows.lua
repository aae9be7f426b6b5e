-- Storing new workflows.
-- Complexity: O(n log N) for n nodes: one SET per node; indexes and counters once per workflow.

-- A workflow as nodes.rs packs it: member, nodes, end, depth, deadline, kept, parent, idempotency key, body and time,
-- spec; the starts follow.
local NEW_WORKFLOW = '<Bc0I4I4I4I6I6Bc0I2c0I2c0I6I4c0'
local IDEMPOTENCY = '<I2c0I2c0I6'
-- Kinds of a packed node, added up: a join (then it follows as it is stored); arguments apart; how it ended; options; digests of
-- blobs.
local IS_JOIN, ARGUMENTS_APART, IS_KEPT, HAS_ITS_OPTIONS = 1, 2, 4, 8
new_workflows.HAS_BLOBS = 16

-- The limits of the store: queued jobs of a tenant queue, queues, workflows and nodes of a tenant.
local max_backlog, max_queues, max_workflows, max_nodes

-- Must come first in a call that stores workflows. `args` has max_backlog, max_queues, and max_workflows, a comma, max_nodes.
function new_workflows.limit(args)
  max_backlog, max_queues = tonumber(args[2]), tonumber(args[3])
  max_workflows, max_nodes = string.match(args[4], '(%d+),(%d+)')
  max_workflows, max_nodes = tonumber(max_workflows), tonumber(max_nodes)
end

-- Its queue, its number of nodes, and the bytes of its spec.
local function queue_of_template(text)
  local _, _, _, _, _, nodes, queue, _, at = unpack_struct(TEMPLATE, text)
  return queue, nodes, #text - at + 1
end

-- Why so many workflows with these templates cannot be added: W, Q, F; or nothing.
function new_workflows.no_room_for(tenant, new, nodes, templates)
  if new > 0 and call('ZCARD', P .. 'workflows:' .. tenant) + new > max_workflows then return 'W' end
  if (call('HGET', P .. 'wf_nodes', tenant) or 0) + nodes > max_nodes then return 'W' end
  local order, wanted = {}, {}
  for _, text in ipairs(templates) do
    local queue, nodes = queue_of_template(text)
    if not wanted[queue] then order[#order + 1] = queue end
    wanted[queue] = (wanted[queue] or 0) + nodes
  end
  local key, count = P .. 'queues:' .. tenant, nil
  for _, queue in ipairs(order) do
    local tq, backlog = tenant_queue_of(tenant, queue), 0
    local delayed = call('HGET', key, queue .. ':d')
    if delayed then
      backlog = call('ZCARD', tq.ready) + (call('HGET', P .. 'line:' .. tq.name, 'q') or 0) + delayed + tq.delayed
    else
      -- Every queue has three fields.
      count = (count or call('HLEN', key) / 3) + 1
      if count > max_queues then return 'Q' end
    end
    if backlog + wanted[queue] > max_backlog then return 'F' end
  end
end

function new_workflows.store_templates(wf, texts)
  local fields, bytes, key = {}, 0, P .. 'wft:' .. wf.prefix .. '000000'
  for i, text in ipairs(texts) do
    fields[2 * i - 1], fields[2 * i] = wf.templates + i - 1, text
    local queue, _, of_spec = queue_of_template(text)
    local tq = tenant_queue_of(wf.tenant, queue)
    if not tq.known then make_queue(tq) end
    bytes = bytes + of_spec
  end
  in_pieces('HSET', key, fields)
  call('HINCRBY', key, 'b', bytes)
  storage.add(wf.tenant, bytes)
  wf.templates, wf.dirty = wf.templates + #texts, true
end

-- Stores a workflow that does not run yet. Answers it and its starts.
function new_workflows.store_workflow(head, templates)
  local member, nodes, last, depth, deadline, keep, parent, idem_key, idem_body, idem_ttl, spec, at =
    unpack_struct(NEW_WORKFLOW, head)
  local prefix, starts = sub(member, 1, -7), sub(head, at)
  local wf = { prefix = prefix, id = sub(prefix, -20) .. '000000', tenant = sub(prefix, 1, -22), state = STAGED,
    cancelled = 0, ending = 0, orphaned = 0, nodes = nodes, last = last, depth = depth, templates = 0, pruned = 0,
    created = now,
    deadline = deadline, finished = 0, keep = keep, counts = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }, parent = parent, of = {},
    dirty = true }
  known[prefix] = wf
  call('HSET', P .. 'wft:' .. member, 's', spec, 'r', starts, 'i',
    pack(IDEMPOTENCY, #idem_key, idem_key, #idem_body, idem_body, idem_ttl), 'b', #spec)
  storage.add(wf.tenant, #spec)
  new_workflows.store_templates(wf, templates)
  call('HINCRBY', P .. 'wf_nodes', wf.tenant, nodes)
  if #parent == 0 then call('ZADD', P .. 'workflows:' .. wf.tenant, 0, wf.id) end
  return wf, starts
end

local function waiting_head(t, flags)
  return pack(HEAD, 1, WAITING, flags, t.priority, 0, 0, t.max_deliveries, now, 0, 0, 0, 0, 0, 0, 0, 0, 0, '', 0, '')
end

local function kept_record(t, flags, state, fixed, result, failure)
  return pack(FULL, 1, state, flags, t.priority, 0, 0, t.max_deliveries, now, 0, 0, 0, now, 0, 0, 0, 0, 0, '', 0, '',
    #fixed, fixed, #result, result, #failure, failure, 0, '', 0, 0, '')
end

-- Where the digests of a packed node's blobs begin and where they end, which is in front of how it ended.
function new_workflows.blobs_at(kind, blob)
  local at = 2
  if has(kind, ARGUMENTS_APART) then at = at + 4 + unpack_struct('<I4', blob, at) end
  if has(kind, HAS_ITS_OPTIONS) then at = at + 4 + unpack_struct('<I4', blob, at) end
  if not has(kind, new_workflows.HAS_BLOBS) then return at, at end
  return at + 2, at + 2 + unpack_struct('<I2', blob, at)
end

-- The digests of the blobs to which a packed node refers.
function new_workflows.blobs_of(blob)
  local kind = byte(blob)
  if kind == IS_JOIN or not has(kind, new_workflows.HAS_BLOBS) then return '' end
  local from, behind = new_workflows.blobs_at(kind, blob)
  return sub(blob, from, behind - 1)
end

-- The bytes of a packed node.
function new_workflows.bytes_of(blob)
  local kind, at, bytes = byte(blob), 2, 0
  if kind == IS_JOIN then return 0 end
  if has(kind, ARGUMENTS_APART) then bytes = unpack_struct('<I4', blob, at) end
  at = select(2, new_workflows.blobs_at(kind, blob))
  if has(kind, IS_KEPT) then
    local _, result, failure, behind = unpack_struct('<BI4c0I4c0', blob, at)
    bytes, at = bytes + storage.of_result(result) + #failure, behind
  end
  local _, _, _, _, edges, behind = unpack_struct(LINKS, blob, at)
  return bytes + #blob - behind + 1 - 8 * edges
end

local function store_job(wf, number, member, kind, blob)
  local at, flags, state, text, arguments = 2, NODE, WAITING, nil, nil
  if has(kind, ARGUMENTS_APART) then
    arguments, at = unpack_struct('<I4c0', blob, at)
    flags = flags + SPEC_APART
  end
  if has(kind, HAS_ITS_OPTIONS) then
    local options
    options, at = unpack_struct('<I4c0', blob, at)
    flags = flags + HAS_OPTIONS
    call('SET', P .. 'more:' .. member, options)
  end
  at = select(2, new_workflows.blobs_at(kind, blob))
  if not has(kind, IS_KEPT) then
    local links = sub(blob, at)
    local t = template_of(wf, (unpack_struct('<I3', links)))
    if not t.waiting then t.waiting = waiting_head(t, NODE) end
    text = (flags == NODE and t.waiting or waiting_head(t, flags)) .. pack('<I4', #t.names + #links) .. t.names .. links
      .. NOTHING_YET
  else
    local result, failure
    state, result, failure, at = unpack_struct('<BI4c0I4c0', blob, at)
    local template, bits = unpack_struct(LINKS, blob, at)
    local t = template_of(wf, template)
    text = kept_record(t, flags, state, t.names .. sub(blob, at), result, failure)
    if wf.last == number then
      local status = status_of(state)
      if status == FAILURE_STATUS and on_failure_in(bits) > 0 then status = OK end
      wf.ending = status + 1
    end
  end
  if call('SET', P .. 'job:' .. member, text, 'NX') then
    wf.counts[state + 1] = wf.counts[state + 1] + 1
  else
    storage.give_back(member)
    blobs.release(member)
    call('SET', P .. 'job:' .. member, text)
  end
  blobs.refer(member, new_workflows.blobs_of(blob))
  if arguments then call('SET', P .. 'spec:' .. member, arguments) end
  storage.add(wf.tenant, new_workflows.bytes_of(blob))
end

-- The template of a packed node, none of a join.
function new_workflows.template_in(blob)
  local kind = byte(blob)
  if kind == IS_JOIN then return end
  local at = select(2, new_workflows.blobs_at(kind, blob))
  if has(kind, IS_KEPT) then
    at = at + 1
    at = at + 4 + unpack_struct('<I4', blob, at)
    at = at + 4 + unpack_struct('<I4', blob, at)
  end
  return (unpack_struct('<I3', blob, at)), at
end

function new_workflows.store_node(wf, number, blob)
  local member, kind = node_of(wf, number), byte(blob)
  wf.dirty = true
  if kind == IS_JOIN then
    call('SET', P .. 'gate:' .. member, sub(blob, 2))
    joins[member] = nil
    if wf.last == number then wf.ending = byte(blob, 4) end
  else
    store_job(wf, number, member, kind, blob)
  end
end

function new_workflows.begin(wf, starts)
  wf.state, wf.created, wf.dirty = STARTED, now, true
  -- At once: the workflow may be over before the indexes are written.
  if wf.deadline > 0 then
    call('ZADD', P .. 'deadlines', math.min(now + wf.deadline, MAX_MS), wf.prefix .. '000000')
  end
  -- Whatever a node waits for, this readies it.
  add_item(ARRIVE, wf.prefix, FAILURE_STATUS, OK, starts, 1, #starts / 8)
end

-- The bytes of templates.
function new_workflows.bytes_of_templates(texts)
  local bytes = 0
  for _, text in ipairs(texts) do bytes = bytes + select(3, queue_of_template(text)) end
  return bytes
end

new_workflows.NEW_WORKFLOW, new_workflows.IDEMPOTENCY, new_workflows.IS_JOIN = NEW_WORKFLOW, IDEMPOTENCY, IS_JOIN
