-- Audits: what is looked for in sets, piece by piece.

-- ---- entries of sets: what is wrong with one, or nothing

local sets = {}

local function is_state(member, wanted)
  local r = load(member)
  return r and wanted(r)
end

-- The state of a job by the first bytes of its record, which is all that most entries say of one; -1 when there is none.
function sets.state_of(member)
  local head = call('GETRANGE', P .. 'job:' .. member, 0, 1)
  return #head == 2 and byte(head) == 1 and byte(head, STATE) or -1
end

sets.ready = function(name, id)
  local tq = tenant_queue_of(string.match(name, '^([^,]*),(.*)$'))
  local function fits(r) return r[STATE] == QUEUED and r[FLAGS] < IN_SUB_QUEUE and queue_in(r[FIXED]) == tq.queue end
  if is_state(tq.tenant .. ',' .. id, fits) then return end
  return 'ready entry of a job that is not queued', function()
    call('ZREM', tq.ready, id)
    limits.settle_tenant_queue(tq)
  end
end

sets.lane = function(name, id)
  local tq, task, key = tenant_queue_in(name)
  local member = tq.tenant .. ',' .. id
  local function fits(r)
    if r[STATE] ~= QUEUED or r[FLAGS] < IN_SUB_QUEUE or queue_in(r[FIXED]) ~= tq.queue then return false end
    local its_task, its_key = limits.sub_queue_of(member, r)
    return its_task == task and its_key == key
  end
  if is_state(member, fits) then return end
  return 'ready entry of a job that is not queued', function() limits.take_out(tq, task, key, id) end
end

sets.leases = function(_, member)
  if sets.state_of(member) ~= RUNNING then return 'lease of a job that does not run' end
end

sets.look = function(_, member)
  local function fits(r) return is_delayed(r) or (r[STATE] == QUEUED and r[EXPIRES] > 0) end
  if not is_state(member, fits) then return 'time of a job that does not wait' end
end

sets.retain = function(_, name)
  local last = sub(name, -1)
  if last == 'w' then
    return not exists('wf:', sub(name, 1, -2)) and 'time to delete a workflow that is gone' or nil
  end
  local member = last == 'c' and sub(name, 1, -2) or name
  if not is_over(sets.state_of(member)) then return 'time to delete a job that has not ended' end
end

sets.dead = function(tenant, id)
  if sets.state_of(tenant .. ',' .. id) ~= FAILED then return 'dead entry of a job that has not failed' end
end

sets.jobs = function(tenant, id)
  if not exists('job:', tenant .. ',' .. id) then return 'entry of a job that is gone' end
end

sets['meta:label'] = function(name, id)
  local tenant, hash = string.match(name, '^([^,]*),(.*)$')
  if not labels.has(tenant, id, hash) then return 'label of a job that is gone' end
end

sets.workflows = function(tenant, id)
  if not exists('wf:', tenant .. ',' .. id) then return 'entry of a workflow that is gone' end
end

sets.deadlines = function(_, member)
  local wf = workflows.of(member)
  if not wf or wf.state ~= workflows.STARTED then return 'deadline of a workflow that does not run' end
end

sets.fair = function(queue, tenant)
  if call('HEXISTS', P .. 'queues:' .. tenant, queue .. ':p') == 0 then return 'turn of a tenant without ready jobs' end
end

sets.parked = function(_, name)
  local tq, task, key = tenant_queue_in(name)
  local field = limits.block_field(task ~= '' and task or nil, key ~= '' and key or nil)
  if call('HGET', limits.hash_of(tq), field) ~= limits.UNTIL then return 'limit of nothing that is parked' end
end

sets.idem_due = function(_, name)
  if not exists('idem:', name) then return 'time of an idempotency key that is gone' end
end

sets.uniq_due = function(_, name)
  if not exists('uniq:', name) then return 'time of a unique key that is gone' end
end

sets.workers_seen = function(_, id)
  if call('HEXISTS', P .. 'workers', id) == 0 then return 'time of a worker that is gone' end
end

sets['meta:schedules_v1'] = function(tenant, name)
  if not schedules.is_there(tenant .. ',' .. name) then return 'name of a schedule that is gone' end
end

sets['meta:schedules_due_v1'] = function(_, full)
  if not schedules.is_there(full, true) then return 'time of a schedule at which nobody is to look' end
end

-- A piece of a set: `name` behind its kind, or '' for one of a kind.
local function look_at_set(kind, name, from, count)
  local key = kind .. (name ~= '' and ':' .. name or '')
  local entries, fixed = call('ZRANGE', P .. key, from, from + count - 1), 0
  for _, entry in ipairs(entries) do
    local check, mend = sets[kind](name, entry)
    if check then
      found(check, name ~= '' and name .. ',' .. entry or entry, mend or removes(key, entry))
      if fix then fixed = fixed + 1 end
    end
  end
  if #entries == count then out[1] = from + count - fixed end
end
