-- Picks jobs one by one, for a queue in which a tenant has sub-queues or controls.
-- Complexity: bounded by the budget: a few calls for a job of a tenant queue without sub-queues, block and controls, and at
--   most some 25 for each other job, block and move.

local named, control_of = sub_queues.named, sub_queues.control_of
-- Steps without a job after which a claim looks at other lines first; LOOKS_A_LINE in the broker's contract.
local LOOKS_A_TENANT_QUEUE = 8
-- What will have been used of the rates if the job under way starts: until when, name, and by what interval and burst.
local taking, taking_n
-- By tenant: how many of its jobs are stored as running, and the tenant queues in which this call may have changed that.
local of_tenants

resets[#resets + 1] = function() taking, taking_n, of_tenants = {}, 0, {} end

-- How long it takes for what was used of a rate to come back, microseconds, and whether another rate used it: Rate::debt_us
-- in the model.
local function debt_of(name, interval, ahead)
  local debt = tonumber(call('ZSCORE', P .. 'rates', name) or 0) - now * 1000
  if debt <= 0 then return 0 end
  local pace = call('HGET', P .. 'paces', name)
  if not pace then return debt > ahead and ahead - interval or debt, true end
  local before, burst = string.match(pace, '^(%d+) (%d+)$')
  debt = math.min(debt, before * burst)
  if tonumber(before) == interval then return debt end
  return math.floor(debt / before * interval), true
end

local function store_rate(until_us, name, interval, burst)
  call('ZADD', P .. 'rates', until_us, name)
  call('HSET', P .. 'paces', name, string.format('%.0f %.0f', interval, burst))
end

-- Whether a rate lets one more start; if not, when it does.
local function rate_lets(name, rate)
  if not rate then return true end
  local count, period, burst = rate[1], rate[2], rate[3]
  local interval = math.max(math.floor(period * 1000 / math.max(count, 1)), 1)
  burst = math.max(burst, 1)
  local ahead = interval * burst
  local debt, is_anothers = debt_of(name, interval, ahead)
  local next = now * 1000 + debt + interval
  if next > now * 1000 + ahead then
    -- It comes back by this rate from now on.
    if is_anothers then store_rate(now * 1000 + debt, name, interval, math.max(burst, math.ceil(debt / interval))) end
    return false, math.ceil((next - ahead) / 1000)
  end
  taking_n = taking_n + 1
  taking[taking_n] = { next, name, interval, burst }
  return true
end

-- How many jobs of a line, or of all of a tenant, run; those of this script are not written yet.
local function running_in(tq)
  return (call('HGET', P .. 'queues:' .. tq.tenant, tq.queue .. ':r') or 0) + tq.running
end

local function running_of(tq)
  local of = of_tenants[tq.tenant]
  if not of then
    of = { stored = 0, tenant_queues = {} }
    local fields = call('HGETALL', P .. 'queues:' .. tq.tenant)
    for i = 1, #fields, 2 do
      if sub(fields[i], -2) == ':r' then of.stored = of.stored + fields[i + 1] end
    end
    for _, other in pairs(tenant_queues) do
      if other.tenant == tq.tenant then of.tenant_queues[other] = true end
    end
    of_tenants[tq.tenant] = of
  end
  of.tenant_queues[tq] = true
  local sum = of.stored
  for other in pairs(of.tenant_queues) do sum = sum + other.running end
  return sum
end

-- Parks a line of which nothing may start now.
local function is_full(tq)
  local tenant, queue = control_of(tq.tenant, 't'), control_of(tq.tenant, 'q:' .. tq.queue)
  if tenant and tenant.concurrency > 0 and running_of(tq) >= tenant.concurrency then
    sub_queues.block(tq, sub_queues.BY_TENANT)
    return true
  end
  if queue and queue.concurrency > 0 and running_in(tq) >= queue.concurrency then
    sub_queues.block(tq, sub_queues.BY_QUEUE)
    return true
  end
  local lets, at = rate_lets('t:' .. tq.tenant, tenant and tenant.rate)
  if lets then lets, at = rate_lets('q:' .. tq.name, queue and queue.rate) end
  if not lets then sub_queues.block(tq, sub_queues.UNTIL, at) end
  return not lets
end

-- What is next in an open line: its id and score, and of a laned job task, key and the tags of both.
local function next_of(tq)
  local plain = call('ZRANGE', tq.ready, 0, 0, 'WITHSCORES')
  local v = call('HMGET', sub_queues.hash_of(tq), 'n', 'c', 'p')
  local lane = v[1] and call('ZRANGE', P .. 'lanes:' .. tq.name, 0, 0, 'WITHSCORES') or {}
  if plain[2] then
    local tag = math.max(tonumber(v[2] or 0), tonumber(v[3] or 0))
    local mine = plain[2] - plain[2] % PRIORITY_STEP + tag
    if not lane[2] or mine <= tonumber(lane[2]) then return { id = plain[1], score = plain[2], lanes = v[1], tag = tag } end
  end
  local task = lane[1]
  if not task then return end
  local key = call('ZRANGE', P .. 'keys:' .. named(tq.name, task), 0, 0, 'WITHSCORES')
  local first = key[1] and call('ZRANGE', P .. 'lane:' .. named(tq.name, task, key[1]), 0, 0, 'WITHSCORES') or {}
  if not first[1] then return end
  return { id = first[1], score = first[2], lanes = true, task = task, key = key[1], tag = lane[2] % PRIORITY_STEP,
    key_tag = key[2] % PRIORITY_STEP, clock = tonumber(v[2] or 0) }
end

-- Takes what is next out of its line, and counts its turn.
local function take_next(tq, next)
  local hash = sub_queues.hash_of(tq)
  call('ZINCRBY', tq.fair, 1, tq.tenant)
  if not next.task then
    if next.lanes then call('HSET', hash, 'c', next.tag, 'p', next.tag + 1) end
    call('ZREM', tq.ready, next.id)
    return sub_queues.settle_tenant_queue(tq)
  end
  local field = 'c:' .. next.task
  local task_clock = math.max(tonumber(call('HGET', hash, field) or 0), next.key_tag)
  local clock = math.max(next.clock, next.tag)
  call('HSET', hash, field, task_clock, 'c', clock)
  sub_queues.take_out(tq, next.task, next.key, next.id, task_clock + 1, clock + 1)
end

-- Whether the limits of its task and key let a laned job start; parks its lane or key lane if not.
local function sub_queue_has_room(tq, next, options, control)
  local limits, tenant, task, key = options and options.has_limits and options or {}, tq.tenant, next.task, next.key
  local function used_up(name, cap, rate, why, of_key)
    if cap and cap > 0 and tonumber(call('HGET', P .. 'used', name) or 0) >= cap then
      sub_queues.block(tq, why, nil, task, of_key)
      return true
    end
    local lets, at = rate_lets('k:' .. name, rate)
    if not lets then sub_queues.block(tq, sub_queues.UNTIL, at, task, of_key) end
    return not lets
  end
  local cap, rate = limits.concurrency, limits.rate
  if control then
    if control.concurrency > 0 then cap = control.concurrency end
    rate = control.rate or rate
  end
  if used_up(named(tenant, task), cap, rate, sub_queues.BY_TASK) then return false end
  return key == ''
    or not used_up(named(tenant, task, key), limits.key_concurrency, limits.key_rate, sub_queues.BY_KEY, key)
end

-- The task in a record. An error when it is damaged.
local function task_at(text)
  local at = 74 + byte(text, 73)
  at = at + 1 + byte(text, at) + 4
  at = at + 1 + byte(text, at)
  return sub(text, at + 1, at + byte(text, at))
end

-- Takes the next job out of an open line, and answers its id and record; nothing when something was parked or moved instead.
local function pick_next(tq)
  taking_n = 0
  if is_full(tq) then return end
  local next = next_of(tq)
  -- It is not open, whatever stands in `fair`.
  if not next then
    call('ZREM', tq.fair, tq.tenant)
    return
  end
  local member = tq.tenant .. ',' .. next.id
  local text = call('GET', P .. 'job:' .. member)
  if not text or not is_readable(text) then return take_next(tq, next) end
  local flags, task = byte(text, FLAGS), next.task
  if not task then
    local done
    done, task = pcall(task_at, text)
    if not done then return take_next(tq, next) end
  end
  local control = control_of(tq.tenant, 'k:' .. task)
  if control and not next.task then
    call('SETRANGE', P .. 'job:' .. member, FLAGS - 1, string.char(flags + IN_SUB_QUEUE))
    sub_queues.insert(tq, task, '', next.score, next.id)
    call('ZREM', tq.ready, next.id)
    return sub_queues.settle_tenant_queue(tq)
  end
  if control and control.paused then return sub_queues.block(tq, sub_queues.PAUSED, nil, next.task) end
  local expires = unpack_struct('<I6', text, 23)
  if expires == 0 or expires > now then
    local options = next.task and sub_queues.options_of(member, flags)
    if next.task and not sub_queue_has_room(tq, next, options, control) then return end
    for i = 1, taking_n do store_rate(unpack(taking[i])) end
  end
  take_next(tq, next)
  return next.id, text
end

-- Takes the next job of a plain line, and counts its turn.
local function pick_plain(tq, readers, share)
  local reader = readers[tq]
  if not reader then
    reader = reader_of(tq)
    readers[tq] = reader
  end
  local id = take(reader, share)
  if reader.taken < reader.size then
    call('ZINCRBY', tq.fair, 1, tq.tenant)
  else
    call('ZREM', tq.fair, tq.tenant)
    tq.active = false
  end
  return id
end

-- The next line of a queue, of those that were not passed over.
local function next_line(queue, excluded, count)
  for _, tenant in ipairs(call('ZRANGE', P .. 'fair:' .. queue, 0, count)) do
    if not excluded[tenant] then return tenant_queue_of(tenant, queue) end
  end
end

local function is_held_by_another(tq, worker)
  local control = control_of(tq.tenant, 'q:' .. tq.queue)
  if not control or not control.exclusive or running_in(tq) == 0 then return false end
  return (tq.holder or call('HGET', P .. 'holders', tq.name)) ~= worker
end

-- Delivers jobs of a queue, at most `want`, until `deliver` answers false; what is left of the budget.
local function serve(queue, worker, want, budget, deliver)
  -- `tired` are lines that are passed over while another one is open.
  local excluded, count, looks, deferred = {}, 0, {}, {}
  local readers, share = {}, math.ceil(want / math.max(call('ZCARD', P .. 'fair:' .. queue), 1))
  while budget > 0 do
    local tq = next_line(queue, excluded, count)
    if tq then
      budget = budget - 1
      local tenant = tq.tenant
      local is_plain = not is_special(tq)
      if not is_plain and is_held_by_another(tq, worker) then
        excluded[tenant], count = true, count + 1
      else
        local id, text
        if is_plain then id = pick_plain(tq, readers, share) else id, text = pick_next(tq) end
        if id then
          looks[tenant] = nil
          if not deliver(tq, id, text) then break end
        else
          looks[tenant] = (looks[tenant] or 0) + 1
          if looks[tenant] >= LOOKS_A_TENANT_QUEUE then
            excluded[tenant], count, deferred[#deferred + 1] = true, count + 1, tenant
          end
        end
      end
    else
      if #deferred == 0 then break end
      for _, tenant in ipairs(deferred) do excluded[tenant], count = nil, count - 1 end
      looks, deferred = {}, {}
    end
  end
  for _, reader in pairs(readers) do take_out(reader) end
  return budget
end
