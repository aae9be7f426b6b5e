-- Reading: jobs, workflows, nodes, queues.

-- Appends: member, record, [large spec or arguments], [list of attempts], [template of a node].
local function append_job(out, member, text)
  local flags, n = byte(text, FLAGS), #out + 2
  out[n - 1], out[n] = member, text
  if has(flags, SPEC_APART) then
    n = n + 1
    out[n] = call('GET', P .. 'spec:' .. member) or ''
  end
  if has(flags, HISTORY_APART) then
    n = n + 1
    out[n] = call('LRANGE', P .. 'history:' .. member, 0, -1)
  end
  if has(flags, NODE) then
    local c = workflows
    -- Behind token and worker, and the length of the immutable part.
    local at = 74 + byte(text, 73)
    at = at + 1 + byte(text, at) + 4
    out[n + 1] = c.template_text(c.of(member), (unpack_struct('<I3', text, c.links_at(text, at))))
  end
end

-- Reads jobs with what is kept apart from their records.
-- ARGV[2…] members
-- Returns, per job that exists, what append_job appends.
-- Complexity: O(n).
register('read', 'no-writes', function(args)
  local out = {}
  for i = 2, #args do
    local member = args[i]
    local text = call('GET', P .. 'job:' .. member)
    if text then append_job(out, member, text) end
  end
  return out
end)

-- Lists jobs, newest first, and reads those that fit.
-- ARGV[2] tenant   ARGV[3] 'jobs' or 'dead'   ARGV[4] only ids before this one, or ''   ARGV[5] max   ARGV[6] entries to
--   look at   ARGV[7] state or ''   ARGV[8] task or ''   ARGV[9] queue or ''
--   ARGV[10] worker of the last delivery or ''
-- Returns { next or '', and per job what append_job appends }.
-- Complexity: O(log N + entries looked at).
register('list', 'no-writes', function(args)
  local tenant, max, scan = args[2], tonumber(args[5]), tonumber(args[6])
  local state, task, queue, worker = tonumber(args[7]), args[8], args[9], args[10]
  local from = '+'
  if #args[4] > 0 then from = '(' .. args[4] end
  local ids = call('ZREVRANGEBYLEX', P .. args[3] .. ':' .. tenant, from, '-', 'LIMIT', 0, scan)
  local out, found, looked = { '' }, 0, 0
  -- Head, then the length of the immutable part.
  local NAMES = HEAD .. 'I4Bc0Bc0'

  for _, id in ipairs(ids) do
    local member = tenant .. ',' .. id
    local text = call('GET', P .. 'job:' .. member)
    if text then
      local v = { unpack_struct(NAMES, text) }
      if (not state or v[STATE] == state) and (task == '' or v[21] == task) and (queue == '' or v[20] == queue)
        and (worker == '' or v[18] == worker) then
        found = found + 1
        append_job(out, member, text)
      end
    end
    looked = looked + 1
    if found == max or looked == scan then
      out[1] = id
      break
    end
  end
  return out
end)

-- Reads a workflow.
-- ARGV[2] its member
-- Returns { packed workflow, spec, template, … }, or nothing when none such was started.
-- Complexity: O(templates).
register('workflow', 'no-writes', function(args)
  local member = args[2]
  local text = call('GET', P .. 'wf:' .. member)
  if not text then return {} end
  local v = { unpack_struct(workflows.WORKFLOW, text) }
  if v[2] == workflows.STAGED or v[10] > 0 then return {} end
  local out = { text, call('HGET', P .. 'wft:' .. member, 's') }
  for first = 0, v[9] - 1, 1000 do
    local names = {}
    for index = first, math.min(first + 999, v[9] - 1) do names[#names + 1] = index end
    for _, template in ipairs(call('HMGET', P .. 'wft:' .. member, unpack(names))) do out[#out + 1] = template end
  end
  return out
end)

-- Lists workflows that replace no job, newest first.
-- ARGV[2] tenant   ARGV[3] only ids before this one, or ''   ARGV[4] max   ARGV[5] entries to look at   ARGV[6] state (as
--   WORKFLOW has it) or ''
-- Returns { next or '', id, packed workflow, spec, … }.
-- Complexity: O(log N + entries looked at).
register('workflows', 'no-writes', function(args)
  local tenant, max, scan, state = args[2], tonumber(args[4]), tonumber(args[5]), tonumber(args[6])
  local from = '+'
  if #args[3] > 0 then from = '(' .. args[3] end
  local ids = call('ZREVRANGEBYLEX', P .. 'workflows:' .. tenant, from, '-', 'LIMIT', 0, scan)
  local STAGED = workflows.STAGED
  local out, found, looked = { '' }, 0, 0
  for _, id in ipairs(ids) do
    local member = tenant .. ',' .. id
    local text = call('GET', P .. 'wf:' .. member)
    if text then
      local is_in = byte(text, 2)
      if is_in ~= STAGED and (not state or is_in == state) then
        found = found + 1
        local n = #out
        out[n + 1], out[n + 2], out[n + 3] = id, text, call('HGET', P .. 'wft:' .. member, 's')
      end
    end
    looked = looked + 1
    if found == max or looked == scan then
      out[1] = id
      break
    end
  end
  return out
end)

-- Reads nodes of a workflow.
-- ARGV[2] member of the workflow   ARGV[3] number of the first   ARGV[4] how many
-- Returns, per node that exists: its number and what append_job appends, or -1 - its number and the packed join.
-- Complexity: O(n).
register('nodes', 'no-writes', function(args)
  local c = workflows
  local wf, first, out = c.at(sub(args[2], 1, -7)), tonumber(args[3]), {}
  if not wf then return out end
  for number = first, math.min(first + tonumber(args[4]), wf.nodes) - 1 do
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
end)

-- The queues of a tenant.
-- ARGV[2] tenant
-- Returns, per queue, in no order: name, queued, running, delayed, dead, paused (0 or 1).
-- Complexity: O(number of queues).
register('queues', 'no-writes', function(args)
  local fields = call('HGETALL', P .. 'queues:' .. args[2])
  local seen, out = {}, {}
  for i = 1, #fields, 2 do
    local queue, what = sub(fields[i], 1, -3), sub(fields[i], -1)
    local entry = seen[queue]
    if not entry then
      entry = {}
      seen[queue] = entry
    end
    entry[what] = tonumber(fields[i + 1])
  end
  for queue, entry in pairs(seen) do
    local n = #out
    local tq = tenant_queue_of(args[2], queue)
    out[n + 1], out[n + 2] = queue, call('ZCARD', tq.ready) + (call('HGET', P .. 'line:' .. tq.name, 'q') or 0)
    out[n + 3], out[n + 4], out[n + 5] = entry.r, entry.d, tonumber(call('HGET', P .. 'deads:' .. args[2], queue) or 0)
    out[n + 6] = entry.p
  end
  return out
end)

-- Queues in which jobs of any tenant can be handed out.
-- ARGV[2] max
-- Returns their names in order.
-- Complexity: O(max), and as much for each queue that was emptied since the last time: those are forgotten here, because
--   emptying happens in the middle of claims, which have no time for it.
register('ready_queues', 'allow-oom', function(args)
  local key, max = P .. 'active_queues', tonumber(args[2])
  local ready, gone = {}, {}
  local from = '-'
  while #ready < max do
    local names = call('ZRANGEBYLEX', key, from, '+', 'LIMIT', 0, max)
    for _, name in ipairs(names) do
      if call('EXISTS', P .. 'fair:' .. name) == 0 then
        gone[#gone + 1] = name
      elseif #ready < max then
        ready[#ready + 1] = name
      end
    end
    if #names < max then break end
    from = '(' .. names[#names]
  end
  in_pieces('ZREM', key, gone)
  return ready
end)
