-- Picks jobs one by one, of tenants in turn, with and without sub-queues and controls. What is known of their tenant queues is
-- read once, and written once when all have been picked, or before something is blocked or moved.
-- Complexity: bounded by the budget: some 4 calls for a job, and some 30 for each block and move.

local named, control_of = limits.named, limits.control_of
-- Steps without a job after which a claim looks at other tenants first; LOOKS_A_TENANT in the broker's contract.
local LOOKS_A_TENANT = 8

-- Of this call: the tenant queues that were read, those without sub-queues and controls, changed counters of running jobs, and
-- rates by name: until when they are used, microseconds, by what interval and burst.
local read_ahead, plain, used, rates
-- Starts that a job takes from rates: until when, interval and burst by name, if it starts.
local taking
-- By tenant: how many of its jobs are stored as running, and the tenant queues in which this call may have changed that.
local of_tenants

resets[#resets + 1] = function()
  read_ahead, plain, used, rates, taking, of_tenants = {}, {}, {}, {}, {}, {}
end

-- ---- what was read ahead

-- A tenant queue: its plain jobs, tasks with a sub-queue in turn, their number, and the clocks of both.
local function ahead_of(tq)
  local ahead = tq.ahead
  if not ahead then
    local v = call('HMGET', limits.hash_of(tq), 'n', 'c', 'p')
    ahead = { plain = reader_of(tq.ready, 2), tasks = v[1] and reader_of(P .. 'lanes:' .. tq.name, 1), by_task = {},
      count = tonumber(v[1] or 0), clock = tonumber(v[2] or 0), plain_tag = tonumber(v[3] or 0), taken = 0, forgotten = 0 }
    tq.ahead, read_ahead[#read_ahead + 1] = ahead, tq
  end
  return ahead
end

-- The sub-queue of a task: its keys in turn, their number, and their clock.
local function task_ahead(tq, task)
  local t = tq.ahead.by_task[task]
  if not t then
    local v = call('HMGET', limits.hash_of(tq), 'n:' .. task, 'c:' .. task)
    t = { keys = reader_of(P .. 'keys:' .. named(tq.name, task), 1), by_key = {}, count = tonumber(v[1] or 0),
      clock = tonumber(v[2] or 0), gone = 0, counter = named(tq.tenant, task) }
    tq.ahead.by_task[task] = t
  end
  return t
end

-- The jobs of a key's sub-queue.
local function jobs_ahead(tq, t, task, key)
  local jobs = t.by_key[key]
  if not jobs then
    jobs = reader_of(P .. 'lane:' .. named(tq.name, task, key), 8)
    jobs.counter = key ~= '' and named(tq.tenant, task, key)
    t.by_key[key] = jobs
  end
  return jobs
end

local function write_tasks(tq, ahead, hash)
  local clocks = {}
  for task, t in pairs(ahead.by_task) do
    write_changed(t.keys)
    for _, jobs in pairs(t.by_key) do write_taken(jobs) end
    if t.count <= 0 then
      call('HDEL', hash, 'n:' .. task, 'c:' .. task)
    elseif t.changed then
      clocks[#clocks + 1], clocks[#clocks + 2] = 'c:' .. task, t.clock
      if t.gone > 0 then call('HINCRBY', hash, 'n:' .. task, 0 - t.gone) end
    end
  end
  in_pieces('HSET', hash, clocks)
  if ahead.tasks then write_changed(ahead.tasks) end
  if ahead.taken > 0 then call('HINCRBY', hash, 'q', 0 - ahead.taken) end
  if ahead.forgotten > 0 then call('HINCRBY', hash, 'n', 0 - ahead.forgotten) end
end

-- Writes what was taken, and forgets what was read.
local function write_ahead()
  local list = read_ahead
  read_ahead = {}
  for _, tq in ipairs(plain) do
    write_taken(tq.plain)
    tq.plain = nil
  end
  plain = {}
  turns.write()
  for _, tq in ipairs(list) do
    local ahead, hash = tq.ahead, limits.hash_of(tq)
    tq.ahead = nil
    write_taken(ahead.plain)
    write_tasks(tq, ahead, hash)
    if ahead.forgotten > 0 and ahead.count <= 0 then
      call('HDEL', hash, 'n', 'q', 'c', 'p')
    else
      if ahead.ticked then call('HSET', hash, 'c', ahead.clock) end
      if ahead.plain_ticked then call('HSET', hash, 'p', ahead.plain_tag) end
    end
    -- It may have no sub-queue any more.
    if ahead.count <= 0 then limits.settle_tenant_queue(tq) end
  end
end

local function block(...)
  write_ahead()
  limits.block(...)
end

-- ---- limits

local function used_of(name)
  local count = used[name]
  if not count then
    count = tonumber(call('HGET', P .. 'used', name) or 0)
    used[name] = count
  end
  return count
end

-- The names by which the running jobs of a task are counted, and (or false) those of a key.
local function counters_of(tq, task, key)
  local t = task_ahead(tq, task)
  return t.counter, jobs_ahead(tq, t, task, key).counter
end

local function count_start(of_task, of_key, more)
  used[of_task] = used_of(of_task) + more
  if of_key then used[of_key] = used_of(of_key) + more end
end

-- A job of a sub-queue does not start after all.
function claims.uncount_start(tenant, task, key)
  count_start(named(tenant, task), key ~= '' and named(tenant, task, key), -1)
end

local function rate_of(name)
  local rate = rates[name]
  if not rate then
    local until_us = call('ZSCORE', P .. 'rates', name)
    rate = { until_us = tonumber(until_us or 0) }
    local pace = until_us and call('HGET', P .. 'paces', name)
    if pace then
      local interval, burst = string.match(pace, '^(%d+) (%d+)$')
      rate.interval, rate.burst = tonumber(interval), tonumber(burst)
    end
    rates[name] = rate
  end
  return rate
end

-- How long it takes for what was used of a rate to come back, microseconds, and whether another rate used it: Rate::debt_us
-- in the model.
local function debt_of(rate, interval, ahead)
  local debt = rate.until_us - now * 1000
  if debt <= 0 then return 0 end
  if not rate.interval then return debt > ahead and ahead - interval or debt, true end
  debt = math.min(debt, rate.interval * rate.burst)
  if rate.interval == interval then return debt end
  return math.floor(debt / rate.interval * interval), true
end

local function take_rate(rate, until_us, interval, burst)
  rate.until_us, rate.interval, rate.burst, rate.changed = until_us, interval, burst, true
end

-- Whether a rate lets one more start; if not, when it does.
local function rate_lets(name, wanted)
  if not wanted then return true end
  local count, period, burst = wanted[1], wanted[2], wanted[3]
  local interval = math.max(math.floor(period * 1000 / math.max(count, 1)), 1)
  burst = math.max(burst, 1)
  local ahead, rate = interval * burst, rate_of(name)
  local debt, is_anothers = debt_of(rate, interval, ahead)
  -- Rate::late_us in the model, and its LATE_MS.
  local late = now * 1000 - rate.until_us
  if burst > 1 or rate.interval ~= interval or late < 0 or late > interval then late = 0 end
  local next = now * 1000 + debt - math.min(late, 200000) + interval
  if next > now * 1000 + ahead then
    -- It comes back by this rate from now on.
    if is_anothers then take_rate(rate, now * 1000 + debt, interval, math.max(burst, math.ceil(debt / interval))) end
    return false, math.ceil((next - ahead) / 1000)
  end
  taking[#taking + 1] = { rate, next, interval, burst }
  return true
end

-- Writes counters and rates.
function claims.write_limits()
  local counts, times, paces = {}, {}, {}
  for name, count in pairs(used) do
    if count > 0 then counts[#counts + 1], counts[#counts + 2] = name, count else call('HDEL', P .. 'used', name) end
  end
  for name, rate in pairs(rates) do
    if rate.changed then
      times[#times + 1], times[#times + 2] = rate.until_us, name
      paces[#paces + 1], paces[#paces + 2] = name, string.format('%.0f %.0f', rate.interval, rate.burst)
    end
  end
  in_pieces('HSET', P .. 'used', counts)
  in_pieces('ZADD', P .. 'rates', times)
  in_pieces('HSET', P .. 'paces', paces)
  used, rates = {}, {}
end

-- How many jobs of a tenant queue, or of all of a tenant, run; those of this call are not written yet.
local function running_in(tq)
  if not tq.stored_running then tq.stored_running = tonumber(call('HGET', P .. 'queues:' .. tq.tenant, tq.queue .. ':r') or 0) end
  return tq.stored_running + tq.running + tq.picked
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
  for other in pairs(of.tenant_queues) do sum = sum + other.running + other.picked end
  return sum
end

-- Blocks a tenant queue of which nothing may start now.
local function is_full(tq)
  if not limits.is_controlled(tq.tenant) then return false end
  local tenant, queue = control_of(tq.tenant, 't'), control_of(tq.tenant, 'q:' .. tq.queue)
  if tenant and tenant.concurrency > 0 and running_of(tq) >= tenant.concurrency then
    block(tq, limits.BY_TENANT)
    return true
  end
  if queue and queue.concurrency > 0 and running_in(tq) >= queue.concurrency then
    block(tq, limits.BY_QUEUE)
    return true
  end
  local lets, at = rate_lets('t:' .. tq.tenant, tenant and tenant.rate)
  if lets then lets, at = rate_lets('q:' .. tq.name, queue and queue.rate) end
  if not lets then block(tq, limits.UNTIL, at) end
  return not lets
end

-- Whether a cap or rate keeps back a job of a task or key, which is blocked then.
local function is_used_up(tq, counter, cap, rate, why, task, key)
  if cap and cap > 0 and used_of(counter) >= cap then
    block(tq, why, nil, task, key)
    return true
  end
  if not rate then return false end
  local lets, at = rate_lets('k:' .. counter, rate)
  if not lets then block(tq, limits.UNTIL, at, task, key) end
  return not lets
end

-- Whether the limits of its task and key let a job of a sub-queue start; blocks the task or the key if not.
local function has_room(tq, task, key, options, control)
  local cap, rate
  local own = options and options.has_limits and options
  if own then cap, rate = own.concurrency, own.rate end
  if control then
    if control.concurrency > 0 then cap = control.concurrency end
    rate = control.rate or rate
  end
  local of_task, of_key = counters_of(tq, task, key)
  if is_used_up(tq, of_task, cap, rate, limits.BY_TASK, task) then return false end
  return not (of_key and own)
    or not is_used_up(tq, of_key, own.key_concurrency, own.key_rate, limits.BY_KEY, task, key)
end

-- ---- who is next

-- What is next in an open tenant queue: its id and score, and of a job in a sub-queue task and key. Nothing when it is not
-- open.
local function next_of(tq)
  local ahead = ahead_of(tq)
  local id, score = first_of(ahead.plain)
  local task, task_score
  if ahead.tasks then task, task_score = first_of(ahead.tasks) end
  if id then
    local level = score - score % PRIORITY_STEP
    if not task or level + math.max(ahead.clock, ahead.plain_tag) <= task_score then return id, score end
  end
  if not task then return end
  local t = task_ahead(tq, task)
  local key = first_of(t.keys)
  if not key then return end
  id, score = first_of(jobs_ahead(tq, t, task, key))
  return id, score, task, key
end

-- Takes a job out of its sub-queue.
local function take_of_task(tq, ahead, task, key)
  local t = task_ahead(tq, task)
  local jobs = jobs_ahead(tq, t, task, key)
  local _, key_score = first_of(t.keys)
  local _, task_score = first_of(ahead.tasks)
  t.clock, t.changed = math.max(t.clock, key_score % PRIORITY_STEP), true
  ahead.clock, ahead.ticked, ahead.taken = math.max(ahead.clock, task_score % PRIORITY_STEP), true, ahead.taken + 1
  take_first(jobs)
  local _, score = first_of(jobs)
  replace_first(t.keys, score and score - score % PRIORITY_STEP + t.clock + 1)
  if not score then
    t.count, t.gone = t.count - 1, t.gone + 1
    if t.count <= 0 then ahead.count, ahead.forgotten = ahead.count - 1, ahead.forgotten + 1 end
  end
  _, score = first_of(t.keys)
  replace_first(ahead.tasks, score and score - score % PRIORITY_STEP + ahead.clock + 1)
  if ahead.count <= 0 then ahead.tasks, ahead.clock, ahead.plain_tag = nil, 0, 0 end
end

-- Takes what is next out of its tenant queue, and counts its turn.
local function take_next(tq, task, key)
  local ahead = ahead_of(tq)
  if task then
    local tasks = ahead.tasks
    take_of_task(tq, ahead, task, key)
    -- Written as all others are.
    if not ahead.tasks then write_changed(tasks) end
  else
    take_first(ahead.plain)
    if ahead.tasks then
      ahead.clock, ahead.ticked = math.max(ahead.clock, ahead.plain_tag), true
      ahead.plain_tag, ahead.plain_ticked = ahead.clock + 1, true
    end
  end
  turns.count(tq, first_of(ahead.plain) or (ahead.tasks and first_of(ahead.tasks)), 1)
end

-- The task in a record. An error when it is damaged.
local function task_at(text)
  local at = 74 + byte(text, 73)
  at = at + 1 + byte(text, at) + 4
  at = at + 1 + byte(text, at)
  return sub(text, at + 1, at + byte(text, at))
end

-- Moves a plain job whose task has a control into a sub-queue.
local function move(tq, id, score, task, flags)
  write_ahead()
  call('SETRANGE', tq.job .. id, FLAGS - 1, string.char(flags + IN_SUB_QUEUE))
  limits.insert(tq, task, '', score, id)
  call('ZREM', tq.ready, id)
  limits.settle_tenant_queue(tq)
end

-- Takes the next job out of an open tenant queue, and answers its id and record, and task and key of its sub-queue; nothing
-- when something was blocked or moved instead.
local function pick_next(tq)
  taking = {}
  if is_full(tq) then return end
  local id, score, in_task, key = next_of(tq)
  -- It is not open, whatever stands in `fair`.
  if not id then
    turns.not_open(tq)
    return
  end
  local text, more
  if in_task then
    local found = call('MGET', tq.job .. id, P .. 'more:' .. tq.member .. id)
    text, more = found[1], found[2]
  else
    text = call('GET', tq.job .. id)
  end
  if not text or not is_readable(text) or byte(text, STATE) ~= QUEUED then return take_next(tq, in_task, key) end
  local flags, task = byte(text, FLAGS), in_task
  if not task then
    local done
    done, task = pcall(task_at, text)
    if not done then return take_next(tq) end
  end
  local control = limits.is_controlled(tq.tenant) and control_of(tq.tenant, 'k:' .. task)
  if control and not in_task then return move(tq, id, score, task, flags) end
  if control and control.paused then return block(tq, limits.PAUSED, nil, task) end
  local expires = unpack_struct('<I6', text, 23)
  local starts = expires == 0 or expires > now
  if starts then
    local options = more and has(flags, HAS_OPTIONS) and limits.read_options(more)
    if in_task and not has_room(tq, task, key, options, control) then return end
    for _, take in ipairs(taking) do take_rate(unpack(take)) end
    if in_task then
      local of_task, of_key = counters_of(tq, task, key)
      count_start(of_task, of_key, 1)
    end
    tq.picked = tq.picked + 1
  end
  take_next(tq, in_task, key)
  return id, text, starts and in_task, key
end

-- Picks at most `most` jobs of a plain tenant queue that is next, and counts its turns; how many.
local function pick_plain(tq, most, picked)
  local jobs = tq.plain
  if not jobs then
    jobs = reader_of(tq.ready, 2)
    tq.plain, plain[#plain + 1] = jobs, tq
  end
  local id = first_of(jobs)
  if not id then
    turns.not_open(tq)
    return 0
  end
  local n = 0
  while id and n < most do
    n = n + 1
    picked(tq, id)
    take_first(jobs)
    id = first_of(jobs)
  end
  turns.count(tq, id, n)
  return n
end

-- Queues of this call that have jobs only for other workers.
resets[#resets + 1] = function() claims.held_by_others = {} end

local function is_held_by_another(tq, worker)
  local control = control_of(tq.tenant, 'q:' .. tq.queue)
  if not control or not control.exclusive or running_in(tq) == 0 or tq.picked > 0 then return false end
  return (tq.holder or call('HGET', P .. 'holders', tq.name)) ~= worker
end

-- Picks at most `want` jobs; calls `picked` with tenant queue, id, record, task and key, and answers what is left of the
-- budget and of the jobs. `state` is the same table in all calls for one claim. It ends early when it picked as many jobs of
-- limited tenants as it may: some may have expired.
function claims.serve(worker, want, budget, state, picked)
  local limited, of_limited = claims.limited, 0
  -- Tenant queues that are left out until the claim ends; tenants that are while another one has something open.
  state.excluded, state.looks, state.deferred = state.excluded or {}, state.looks or {}, state.deferred or {}
  while budget > 0 and want > 0 do
    local tq = turns.next(state.excluded, state.deferred)
    if tq then
      budget = budget - 1
      local tenant = tq.tenant
      local is_plain = not is_special(tq)
      if not is_plain and is_held_by_another(tq, worker) then
        state.excluded[tq.name], claims.held_by_others[tq.queue] = true, true
      else
        local n = 0
        if is_plain then
          local most = limited.tenants[tenant] and 1 or math.min(want, budget + 1, turns.in_row(tq))
          n = pick_plain(tq, most, picked)
        else
          local id, text, task, key = pick_next(tq)
          if id then
            n = 1
            picked(tq, id, text, task, key)
          end
        end
        if n > 0 then
          state.looks[tenant], want, budget = nil, want - n, budget + 1 - n
          if limited.tenants[tenant] then
            of_limited = of_limited + 1
            if of_limited >= limited.left then
              write_ahead()
              return budget, 0
            end
          end
        else
          state.looks[tenant] = (state.looks[tenant] or 0) + 1
          if state.looks[tenant] >= LOOKS_A_TENANT then state.deferred[tenant] = true end
        end
      end
    else
      if not next(state.deferred) then break end
      state.looks, state.deferred = {}, {}
      write_ahead()
    end
  end
  write_ahead()
  return budget, want
end
