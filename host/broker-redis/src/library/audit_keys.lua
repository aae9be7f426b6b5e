-- Audits: what is looked for in each kind of keys.

-- Of this call: whether to mend, and the answer.
local fix, out
local named = limits.named

-- `mend` is called if it is asked for; a finding that cannot be mended has none.
local function found(check, example, mend)
  if fix and mend then mend() end
  local n = #out
  out[n + 1], out[n + 2], out[n + 3] = check, example, fix and mend and '1' or '0'
end

local function exists(kind, name)
  return call('EXISTS', P .. kind .. name) == 1
end

local function is_in(set, name)
  return call('ZSCORE', P .. set, name)
end

local function removes(set, name)
  return function() call('ZREM', P .. set, name) end
end

local function adds(set, score, name)
  return function() call('ZADD', P .. set, math.min(score, MAX_MS), name) end
end

local function is_delayed(r)
  return r[STATE] == SCHEDULED or r[STATE] == RETRYING
end

local function tenant_queue_in(name)
  local tenant, queue, task, key = string.match(name, '^([^,]*),([^,]*),?([^,]*),?([^,]*)$')
  return tenant_queue_of(tenant, queue), task, key
end

-- ---- keys, by kind

local function look_at_job(member)
  local r = load(member)
  if not r then
    if exists('job:', member) then found('record that cannot be read', member) end
    return
  end
  local tq, id, state = tenant_queue_of(tenant_of(member), queue_in(r[FIXED])), id_of(member), r[STATE]
  local is_node = has(r[FLAGS], NODE)
  if is_node and not workflows.of(member) then
    return found('node without a workflow', member, function()
      leave(member, r, tq)
      zrem(P .. 'look', member)
      deletion.unlink(member)
    end)
  end
  local look_at = is_delayed(r) and r[DUE] or 0
  if r[EXPIRES] > 0 and (look_at == 0 or r[EXPIRES] < look_at) then look_at = r[EXPIRES] end
  if state == QUEUED then
    local task, key = nil, nil
    local set = 'ready:' .. tq.name
    if r[FLAGS] >= IN_SUB_QUEUE then
      task, key = limits.sub_queue_of(member, r)
      set = 'lane:' .. named(tq.name, task, key)
    end
    if not is_in(set, id) then
      found('queued job that is in no queue', member, function()
        if task then
          limits.insert(tq, task, key, r[SCORE], id)
        else
          call('ZADD', tq.ready, r[SCORE], id)
          limits.settle_tenant_queue(tq)
        end
        ready_in[tq.queue] = (ready_in[tq.queue] or 0) + 1
      end)
    end
  elseif state == RUNNING and not is_in('leases', member) then
    found('running job without a lease', member, adds('leases', now, member))
  end
  if (is_delayed(r) or (state == QUEUED and r[EXPIRES] > 0)) and not is_in('look', member) then
    found('waiting job that nobody looks at', member, adds('look', look_at, member))
  end
  if is_node then return end
  local name = retained(member, r[FLAGS])
  if is_over(state) and not is_in('retain', name) then
    found('ended job that is kept for ever', member, adds('retain', now + r[RESULT_TTL], name))
  end
  if not is_in('jobs:' .. tq.tenant, id) then
    found('job that no list has', member, adds('jobs:' .. tq.tenant, 0, id))
  end
  -- It may have labels that no list knows: audit.rs looks at its spec.
  local spec = sub(r[FIXED], workflows.links_at(r[FIXED], 1))
  if labels.are_complete() and labels.missing_in(member, r[FLAGS], spec) then found('labels?', member) end
end

-- Most jobs are as they should be: the beginning of a record says in which sets a job has to be, and one command looks for many
-- of them there. Answers the members of those for which that is not enough, and says how many are in each set: one that has no
-- more entries has none without a job.
local function doubtful_jobs(members)
  local BEGIN = 1100
  local doubtful, lists, order, knows_labels = {}, {}, {}, labels.are_complete()
  local function list_of(command, key)
    local list = lists[key]
    if not list then
      list = { command = command, key = key, members = {}, n = 0 }
      lists[key], order[#order + 1] = list, list
    end
    return list
  end
  local function expect(list, name, member)
    local n = list.n + 1
    list[n], list.members[n], list.n = name, member, n
  end
  local leases, look, retain = list_of('ZMSCORE', 'leases'), list_of('ZMSCORE', 'look'), list_of('ZMSCORE', 'retain')
  local prefix, tenant, ready, jobs, known = P .. 'job:', nil, nil, nil, nil
  for _, member in ipairs(members) do
    local text = call('GETRANGE', prefix .. member, 0, BEGIN - 1)
    local state, flags = byte(text, STATE, FLAGS)
    local is_fine = is_readable(text) and flags < IN_SUB_QUEUE and not has(flags, NODE)
    -- Behind the worker comes the immutable part.
    local at = is_fine and 75 + byte(text, 73) + (byte(text, 74 + byte(text, 73)) or 0)
    if not at or #text < at + 4 or at + 3 + unpack_struct('<I4', text, at) > #text then
      doubtful[#doubtful + 1] = member
    else
      local its_tenant, id = tenant_of(member), id_of(member)
      if its_tenant ~= tenant then
        tenant, ready = its_tenant, {}
        jobs, known = list_of('ZMSCORE', 'jobs:' .. tenant), list_of('HMGET', 'meta:labels:' .. tenant)
      end
      expect(jobs, id, member)
      local is_queued = state == QUEUED
      if is_queued then
        local queue = sub(text, at + 5, at + 4 + byte(text, at + 4))
        local list = ready[queue]
        if not list then
          list = list_of('ZMSCORE', 'ready:' .. tenant .. ',' .. queue)
          ready[queue] = list
        end
        expect(list, id, member)
      elseif state == RUNNING then
        expect(leases, member, member)
      elseif is_over(state) then
        expect(retain, retained(member, flags), member)
      end
      if state == SCHEDULED or state == RETRYING or (is_queued and unpack_struct('<I6', text, 23) > 0) then
        expect(look, member, member)
      end
      if knows_labels and labels.may_have_some(flags, text) then expect(known, id, member) end
    end
  end
  for _, list in ipairs(order) do
    local there = 0
    for from = 1, list.n, 1000 do
      local answers = call(list.command, P .. list.key, unpack(list, from, math.min(from + 999, list.n)))
      for i = 1, #answers do
        if answers[i] then there = there + 1 else doubtful[#doubtful + 1] = list.members[from + i - 1] end
      end
    end
    if there > 0 then found('entries?', list.key .. ' ' .. there) end
  end
  return doubtful
end

local function look_at_part(kind)
  return function(member)
    if exists('job:', member) or not exists(kind, member) then return end
    found(kind .. ' without a job', member, function() call('UNLINK', P .. kind .. member) end)
  end
end

local function look_at_workflow(member)
  local c = workflows
  local wf = c.of(member)
  if not wf then return end
  local name, over = member .. 'w', wf.state ~= c.STARTED
  local orphaned = #wf.parent > 0 and wf.state ~= c.STAGED and not exists('job:', wf.tenant .. ',' .. wf.parent)
  if over and (#wf.parent == 0 or wf.state == c.STAGED or orphaned) and not is_in('retain', name) then
    found('workflow that is kept for ever', member, adds('retain', now, name))
  end
end

local function look_at_part_of_workflow(kind, suffix)
  return function(member)
    if not exists(kind, member) or exists('wf:', sub(member, 1, -7) .. suffix) then return end
    found(kind .. ' without a workflow', member, function() call('UNLINK', P .. kind .. member) end)
  end
end

local function look_at_unique(name)
  local entry = call('GET', P .. 'uniq:' .. name)
  if not entry then return end
  local tenant = string.match(name, '^[^,]*')
  local until_ms, id = string.match(entry, '^(%d+) (%S+) ')
  until_ms = tonumber(until_ms)
  if until_ms > 0 then
    if not is_in('uniq_due', name) then found('unique key that nothing will delete', name, adds('uniq_due', until_ms, name)) end
    return
  end
  local r = load(tenant .. ',' .. id)
  if not r or is_over(r[STATE]) then
    found('unique key of a job that ended', name, function() call('DEL', P .. 'uniq:' .. name) end)
  end
end

local function look_at_idempotency(name)
  local entry = call('GET', P .. 'idem:' .. name)
  if not entry or is_in('idem_due', name) then return end
  local until_ms = tonumber(string.match(entry, '^%d+')) or now
  found('idempotency key that nothing will delete', name, adds('idem_due', until_ms, name))
end

local function look_at_special(kind)
  return function(name)
    if not exists(kind, name) or call('HEXISTS', P .. 'special', name) == 1 then return end
    found('limits that are not looked at', name, function() call('HSET', P .. 'special', name, 1) end)
  end
end

-- Whatever is blocked in a tenant queue will be opened again.
local function look_at_tenant_queue(name)
  look_at_special('line:')(name)
  local tq, fields = tenant_queue_in(name), call('HGETALL', P .. 'line:' .. name)
  for i = 1, #fields, 2 do
    local task, key = string.match(fields[i], '^k:?([^,]*),?([^,]*)$')
    local why = fields[i + 1]
    if task then
      task, key = task ~= '' and task or nil, key ~= '' and key or nil
      local known = true
      if why == limits.UNTIL then
        known = is_in('parked', named(name, task, key))
      elseif limits.blocked_set(why, tq.tenant, task, key) then
        known = call('SISMEMBER', limits.blocked_set(why, tq.tenant, task, key), tq.queue) == 1
      end
      if not known then
        found('limit that stops jobs for ever', named(name, task, key), function() limits.unblock(tq, nil, task, key) end)
      end
    end
  end
end

local function look_at_queues(tenant)
  for _, field in ipairs(call('HKEYS', P .. 'queues:' .. tenant)) do
    if sub(field, -2) == ':p' then
      local tq = tenant_queue_of(tenant, sub(field, 1, -3))
      local open, is_served = limits.is_open(tq), call('ZSCORE', tq.fair, tenant)
      if (open and not is_served) or (is_served and not open) then
        local check = open and 'ready jobs that nobody is given' or 'turn of a tenant without ready jobs'
        found(check, tq.name, function() limits.settle_tenant_queue(tq) end)
      end
      if is_served and not is_in('active_queues', tq.queue) then
        found('queue that no worker hears of', tq.queue, adds('active_queues', 0, tq.queue))
      end
    end
  end
end

local function look_at_blocked(name)
  local tenant, task, key = string.match(name, '^([^,]*),?([^,]*),?([^,]*)$')
  task, key = task ~= '' and task or nil, key ~= '' and key or nil
  for _, queue in ipairs(call('SMEMBERS', P .. 'blocked:' .. name)) do
    local why = call('HGET', limits.hash_of(tenant_queue_of(tenant, queue)), limits.block_field(task, key))
    if not why or limits.blocked_set(why, tenant, task, key) ~= P .. 'blocked:' .. name then
      found('limit of nothing that is parked', name, function() call('SREM', P .. 'blocked:' .. name, queue) end)
    end
  end
end

local function look_at_events(tenant)
  if not exists('events:', tenant) or call('HEXISTS', P .. 'followed', tenant) == 1 then return end
  found('events that nobody follows', tenant, function() call('UNLINK', P .. 'events:' .. tenant) end)
end

local kinds = {
  job = look_at_job, spec = look_at_part('spec:'), history = look_at_part('history:'), log = look_at_part('log:'),
  more = look_at_part('more:'), wf = look_at_workflow, wft = look_at_part_of_workflow('wft:', '000000'),
  gate = look_at_part_of_workflow('gate:', '000000'), uniq = look_at_unique, idem = look_at_idempotency,
  control = look_at_special('control:'), line = look_at_tenant_queue, queues = look_at_queues, blocked = look_at_blocked,
  events = look_at_events,
  schedule_v1 = function(name) schedules.look_at(name, found) end,
  schedule_fires_v1 = function(name) schedules.look_at_fires(name, found) end,
}
