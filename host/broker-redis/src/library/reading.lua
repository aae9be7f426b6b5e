-- Reading: jobs, workflows, nodes, queues.

-- Bytes of a record that hold its head, its queue and its task, however long they are: more are read only when needed.
local PREFIX = 1100
-- Up to the names of queue and task in the immutable part.
local NAMES = HEAD .. 'I4Bc0Bc0'

local function prefix_of(member)
  return call('GETRANGE', P .. 'job:' .. member, 0, PREFIX - 1)
end

-- `text` are the bytes of a record behind its first `offset`: the same, with at least `count` of them.
local function at_least(count, text, member, offset)
  if #text >= count then return text end
  return text .. call('GETRANGE', P .. 'job:' .. member, offset + #text, offset + count + PREFIX - 1)
end

-- Where the names begin in a record: behind the worker and the length of the immutable part.
local function names_at(text)
  local at = 74 + byte(text, 73)
  return at + 1 + byte(text, at) + 4
end

-- Appends what is kept apart from a record: [large spec or arguments], [template of a node].
-- Returns where the spec or the arguments begin in the record, and the bytes of the texts that are kept apart.
local function append_apart(out, member, text)
  local flags, n, bytes = byte(text, FLAGS), #out, 0
  local at = workflows.links_at(text, names_at(text))
  if has(flags, SPEC_APART) then
    n = n + 1
    out[n] = call('GET', P .. 'spec:' .. member) or ''
    bytes = #out[n]
  end
  if has(flags, NODE) then
    local wf = workflows.of(member)
    local template, _, _, _, edges, arguments_at = unpack_struct(workflows.LINKS, text, at)
    at = arguments_at + 8 * edges
    out[n + 1] = workflows.template_text(wf, template)
    bytes = bytes + #workflows.template_of(wf, template).spec
  end
  return at, bytes
end

-- Appends a job without its history: member, record, and what append_apart appends. Its result is left out unless it is
-- wanted, or is the workflow that replaced the job. `text` is the prefix of its record.
-- Returns the bytes of its texts, as the broker's contract counts them.
local function append_job(out, member, text, with_result)
  local flags, n, bytes = byte(text, FLAGS), #out, 0
  local names = names_at(text)
  local fixed_end = names - 1 + unpack_struct('<I4', text, names - 4)
  text = at_least(fixed_end + 4, text, member, 0)
  local result_bytes = unpack_struct('<I4', text, fixed_end + 1)
  local rest_at = fixed_end + 5 + result_bytes
  local kept = sub(text, 1, fixed_end) .. '\0\0\0\0'
  if result_bytes > 0 and (with_result or has(flags, REPLACED)) then
    text = at_least(rest_at - 1, text, member, 0)
    kept = sub(text, 1, rest_at - 1)
    if not has(flags, REPLACED) then bytes = result_bytes end
  end
  local rest = at_least(4, sub(text, rest_at), member, rest_at - 1)
  local failure_bytes = unpack_struct('<I4', rest)
  rest = at_least(8 + failure_bytes, rest, member, rest_at - 1)
  local progress_bytes = unpack_struct('<I4', rest, 5 + failure_bytes)
  local rest_bytes = 8 + failure_bytes + progress_bytes
  rest = at_least(rest_bytes, rest, member, rest_at - 1)
  out[n + 1], out[n + 2] = member, kept .. sub(rest, 1, rest_bytes) .. '\0\0\0\0\0'
  local spec_at, apart_bytes = append_apart(out, member, text)
  return bytes + fixed_end + 1 - spec_at + failure_bytes + progress_bytes + apart_bytes
end

-- Looks at the ids of an index, newest first, until the page is full. `look` appends what is behind an id if it belongs to
-- the page, and answers its bytes then. Answers the id after which the next page begins, or ''.
local function page(index, before, max, scan, look)
  local from, found, bytes = '+', 0, 0
  if #before > 0 then from = '(' .. before end
  max, scan = tonumber(max), tonumber(scan)
  for looked, id in ipairs(call('ZREVRANGEBYLEX', index, from, '-', 'LIMIT', 0, scan)) do
    local more = look(id)
    if more then found, bytes = found + 1, bytes + more end
    if found == max or looked == scan or bytes >= PAGE_BYTES then return id end
  end
  return ''
end

-- Reads jobs with what is kept apart from their records.
-- ARGV[2…] members
-- Returns, per job that exists: member, record, what append_apart appends, and a list of the attempts that are kept apart.
-- Complexity: O(n).
register('read', 'no-writes', function(args)
  local out = {}
  for i = 2, #args do
    local member = args[i]
    local text = call('GET', P .. 'job:' .. member)
    if text then
      local n = #out
      out[n + 1], out[n + 2] = member, text
      append_apart(out, member, text)
      out[#out + 1] = has(byte(text, FLAGS), HISTORY_APART) and call('LRANGE', P .. 'history:' .. member, 0, -1) or {}
    end
  end
  return out
end)

-- Reads the specs of jobs that may have labels which no list knows.
-- ARGV[2…] members
-- Returns { how many were looked at, member, spec, … }.
-- Complexity: O(n).
register('read_labels', 'no-writes', function(args)
  local out, bytes = { 0 }, 0
  for i = 2, #args do
    local member = args[i]
    local text = call('GET', P .. 'job:' .. member)
    out[1] = i - 1
    if text and is_readable(text) and not has(byte(text, FLAGS), NODE) then
      local names, flags, n = names_at(text), byte(text, FLAGS), #out
      local fixed_end = names - 1 + unpack_struct('<I4', text, names - 4)
      local spec = labels.missing_in(member, flags, sub(text, workflows.links_at(text, names), fixed_end))
      if spec then out[n + 1], out[n + 2], bytes = member, spec, bytes + #spec end
      if bytes >= PAGE_BYTES then break end
    end
  end
  return out
end)

-- Lists jobs, newest first, and reads those that fit.
-- ARGV[2] tenant   ARGV[3] 'jobs' or 'dead'   ARGV[4] only ids before this one, or ''   ARGV[5] max   ARGV[6] entries to
--   look at   ARGV[7] state or ''   ARGV[8] task or ''   ARGV[9] queue or ''
--   ARGV[10] worker of the last delivery or ''   ARGV[11…] hash of a label, text that specs with it contain, …
-- Returns { next or '', and per job what append_job appends }. Jobs without a label may be among those whose spec contains
--   its text.
-- Complexity: O(log N + entries looked at): the beginning of each record, and the texts of those that fit. With labels, those
--   of the rarest one are looked at, if the labels of all jobs are known.
register('list', 'no-writes', function(args)
  local tenant, state, task, queue, worker = args[2], tonumber(args[7]), args[8], args[9], args[10]
  local is_filtered = state or task ~= '' or queue ~= '' or worker ~= ''
  -- Whether the spec of a job that is no node contains a text. `text` is the prefix of its record.
  local function spec_contains(member, text, wanted)
    if has(byte(text, FLAGS), SPEC_APART) then
      return string.find(call('GET', P .. 'spec:' .. member) or '', wanted, 1, true)
    end
    local names = names_at(text)
    local fixed_end = names - 1 + unpack_struct('<I4', text, names - 4)
    local _, last = string.find(at_least(fixed_end, text, member, 0), wanted, workflows.links_at(text, names), true)
    return last and last <= fixed_end
  end
  local out, hashes = { '' }, {}
  for at = 11, #args, 2 do hashes[#hashes + 1] = args[at] end
  local index = #hashes > 0 and labels.index_for(tenant, hashes) or P .. args[3] .. ':' .. tenant
  out[1] = page(index, args[4], args[5], args[6], function(id)
    local member = tenant .. ',' .. id
    local text = prefix_of(member)
    if #text == 0 then return end
    if is_filtered then
      local v = { unpack_struct(NAMES, text) }
      local fits = (not state or v[STATE] == state) and (task == '' or v[21] == task) and (queue == '' or v[20] == queue)
        and (worker == '' or v[18] == worker)
      if not fits then return end
    end
    for at = 12, #args, 2 do
      if not spec_contains(member, text, args[at]) then return end
    end
    return append_job(out, member, text)
  end)
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
  local tenant, state = args[2], tonumber(args[6])
  local out = { '' }
  out[1] = page(P .. 'workflows:' .. tenant, args[3], args[4], args[5], function(id)
    local member = tenant .. ',' .. id
    local text = call('GET', P .. 'wf:' .. member)
    local is_in = text and byte(text, 2)
    if not text or is_in == workflows.STAGED or (state and is_in ~= state) then return end
    local n = #out
    out[n + 1], out[n + 2], out[n + 3] = id, text, call('HGET', P .. 'wft:' .. member, 's')
    return 0
  end)
  return out
end)

-- Reads nodes of a workflow.
-- ARGV[2] member of the workflow   ARGV[3] number of the first   ARGV[4] that behind the last   ARGV[5] '1' with results
-- Returns the number of the first that was not looked at; then, per node that exists: its number and what append_job appends,
--   or -1 - its number and the packed join.
-- Complexity: O(n).
register('nodes', 'no-writes', function(args)
  local c = workflows
  local wf, last, bytes = c.at(sub(args[2], 1, -7)), tonumber(args[4]), 0
  local out = { last }
  if not wf then return out end
  for number = tonumber(args[3]), math.min(last, wf.nodes) - 1 do
    local member = c.node_of(wf, number)
    local text = prefix_of(member)
    if #text > 0 then
      out[#out + 1] = number
      bytes = bytes + append_job(out, member, text, args[5] == '1')
      if bytes >= PAGE_BYTES then
        out[1] = number + 1
        break
      end
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
    out[n + 3], out[n + 4] = entry.r or 0, entry.d or 0
    out[n + 5] = tonumber(call('HGET', P .. 'deads:' .. args[2], queue) or 0)
    out[n + 6] = entry.p or 0
  end
  return out
end)

-- Since when the job of a sorted set of ready jobs that is ready longest is: of those that are first of their priority.
local function oldest_in(tq, key, oldest)
  local from = '-inf'
  while true do
    local first = call('ZRANGEBYSCORE', key, from, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    if not first[2] then return oldest end
    local times = call('GETRANGE', tq.job .. first[1], 16, 33)
    if #times == 18 then
      local created, _, queued = unpack_struct('<I6I6I6', times)
      local since = queued > 0 and queued or created
      if not oldest or since < oldest then oldest = since end
    end
    from = first[2] - first[2] % PRIORITY_STEP + PRIORITY_STEP
  end
end

-- How long the job that is ready longest has been ready, by queue.
-- ARGV[2] tenant   ARGV[3] sub-queues to look at
-- Returns, per queue that has one, in no order: name, milliseconds.
-- Complexity: O(log N) for each priority of a queue, and of a sub-queue that is looked at.
register('oldest_ready', 'no-writes', function(args)
  local out = {}
  for _, field in ipairs(call('HKEYS', P .. 'queues:' .. args[2])) do
    if sub(field, -2) == ':p' then
      local tq, left = tenant_queue_of(args[2], sub(field, 1, -3)), tonumber(args[3])
      local oldest = oldest_in(tq, tq.ready)
      if is_special(tq) then
        for _, task in ipairs(call('ZRANGE', P .. 'lanes:' .. tq.name, 0, left - 1)) do
          if left <= 0 then break end
          for _, key in ipairs(call('ZRANGE', P .. 'keys:' .. limits.named(tq.name, task), 0, left - 1)) do
            oldest, left = oldest_in(tq, P .. 'lane:' .. limits.named(tq.name, task, key), oldest), left - 1
          end
        end
      end
      if oldest then out[#out + 1], out[#out + 2] = tq.queue, math.max(now - oldest, 0) end
    end
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
