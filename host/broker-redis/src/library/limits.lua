-- Sub-queues and limits: what is blocked, and what opens it again. The rules are those of the broker's limits.rs.
--
-- A tenant queue with sub-queues or a block has a hash `line:<tenant queue>`: `n` tasks with a sub-queue, `q` jobs in them,
-- `c` its clock, `p` the virtual finish time of its plain jobs, `n:<task>` keys of a task's sub-queue, `c:<task>` its clock;
-- and why it, a task or a key is blocked: `k`, `k:<task>`, `k:<task>,<key>`. Open tasks are in `lanes:<tenant queue>`, open
-- keys in `keys:<tenant queue>,<task>`, by priority and virtual finish time; the jobs of a key in
-- `lane:<tenant queue>,<task>,<key>`. Nothing of this is written later than it is read.

-- Why something is blocked: until a time, by a cap of the tenant, queue, task, key, because its task is paused.
local UNTIL, BY_TENANT, BY_QUEUE, BY_TASK, BY_KEY, PAUSED = 'u', 'T', 'Q', 'K', 'H', 'P'
limits.UNTIL, limits.BY_TENANT, limits.BY_QUEUE, limits.BY_TASK, limits.BY_KEY, limits.PAUSED =
  UNTIL, BY_TENANT, BY_QUEUE, BY_TASK, BY_KEY, PAUSED
-- Bits (paused, exclusive, has a rate), the rate, concurrency.
local CONTROL = '<BI4I6I4I4'

-- The most of what rates had blocked that one call opens.
local RATES_AT_ONCE = 100

-- Version, what a lost worker means, whether it has limits; rate (count or 0, period, burst) and concurrency of its task, the
-- same of its key, the key; who wins (0: not unique), for how long, longest wait, unique key.
local OPTIONS = '<BBBI4I6I4I4I4I6I4I4Bc0BI6I6Bc0'

-- Whether listeners hear of a tenant queue that opens; controls by tenant and scope; whether a tenant has any.
local notifying, controls, controlled
-- Capacity that is to be released: how many running jobs ended by name, and what may open, in order.
local freed, opening
-- Broker options by their text, and how many: the last ones that were read, also by calls before.
local options_by_text, options_n = {}, 0
local MOST_OPTIONS = 1000

resets[#resets + 1] = function()
  notifying, controls, controlled, freed, opening = false, {}, {}, {}, {}
end

-- ---- controls

function limits.is_controlled(tenant)
  if controlled[tenant] == nil then controlled[tenant] = call('HEXISTS', P .. 'special', tenant) == 1 end
  return controlled[tenant]
end

function limits.opened_control(text)
  local bits, count, period, burst, concurrency = unpack_struct(CONTROL, text)
  local control = { paused = has(bits, 1), exclusive = has(bits, 2), concurrency = concurrency }
  if has(bits, 4) then control.rate = { count, period, burst } end
  return control
end

function limits.packed_control(control)
  local bits, rate = 0, control.rate or { 0, 0, 0 }
  if control.paused then bits = 1 end
  if control.exclusive then bits = bits + 2 end
  if control.rate then bits = bits + 4 end
  return pack(CONTROL, bits, rate[1], rate[2], rate[3], control.concurrency)
end

-- The control of a tenant ('t'), queue ('q:…') or task ('k:…'), or false. Whether a queue is paused is in `queues:…`.
function limits.control_of(tenant, scope)
  if not limits.is_controlled(tenant) then return false end
  local name = tenant .. ',' .. scope
  if controls[name] == nil then
    local text = call('HGET', P .. 'control:' .. tenant, scope)
    controls[name] = text and limits.opened_control(text)
  end
  return controls[name]
end

local function is_paused(tq)
  if call('HGET', P .. 'queues:' .. tq.tenant, tq.queue .. ':p') == '1' then return true end
  local control = limits.control_of(tq.tenant, 't')
  return control and control.paused
end

-- ---- blocks

function limits.hash_of(tq)
  return P .. 'line:' .. tq.name
end

-- Names a tenant queue, or a task's or key's sub-queue, behind a prefix.
function limits.named(name, task, key)
  if not task then return name end
  if not key then return name .. ',' .. task end
  return name .. ',' .. task .. ',' .. key
end

function limits.block_field(task, key)
  return task and 'k:' .. limits.named(task, key) or 'k'
end

-- The set of the queues in which something is blocked by a cap.
function limits.blocked_set(why, tenant, task, key)
  if why == BY_TENANT then return P .. 'blocked:' .. tenant end
  if why == BY_TASK then return P .. 'blocked:' .. limits.named(tenant, task) end
  if why == BY_KEY then return P .. 'blocked:' .. limits.named(tenant, task, key) end
end

-- The tenant queue has sub-queues or is blocked from now on.
local function mark(tq)
  if tq.marked then return end
  flush_indexes()
  call('HSET', P .. 'special', tq.name, 1)
  tq.special, tq.marked, anything_special = true, true, true
end

-- Why it is blocked may be known.
local function drop_block(tq, task, key, why)
  local field = limits.block_field(task, key)
  why = why or call('HGET', limits.hash_of(tq), field)
  if not why then return end
  call('HDEL', limits.hash_of(tq), field)
  if why == UNTIL then call('ZREM', P .. 'parked', limits.named(tq.name, task, key)) end
  local blocked = limits.blocked_set(why, tq.tenant, task, key)
  if blocked then call('SREM', blocked, tq.queue) end
end

-- ---- what is open

-- Whether a tenant queue must be open; whether it is blocked, has sub-queues, has plain jobs.
function limits.is_open(tq)
  local v = call('HMGET', limits.hash_of(tq), 'k', 'n')
  local is_blocked, tasks, plain = v[1], v[2], call('EXISTS', tq.ready) == 1
  local has_next = plain or (tasks and call('EXISTS', P .. 'lanes:' .. tq.name) == 1)
  return not is_blocked and has_next and not is_paused(tq), is_blocked, tasks, plain
end

-- Opens or closes a tenant queue as it must be, and forgets what is over of it.
function limits.settle_tenant_queue(tq)
  local open, is_blocked, tasks, plain = limits.is_open(tq)
  if is_blocked and not tasks and not plain then
    drop_block(tq)
    is_blocked = false
  end
  local was = call('ZSCORE', tq.fair, tq.tenant)
  if open and not was then
    turns.open(tq)
    if notifying then ready_in[tq.queue] = (ready_in[tq.queue] or 0) + 1 end
  elseif was and not open then
    turns.leave(tq)
  end
  tq.active = false
  if not is_blocked and not tasks then
    call('HDEL', P .. 'special', tq.name)
    tq.marked = false
  end
end

-- The same of a task's sub-queue that has jobs; `tag` is its new virtual finish time.
local function settle_task(tq, task, tag)
  local hash, tasks = limits.hash_of(tq), P .. 'lanes:' .. tq.name
  local first = call('ZRANGE', P .. 'keys:' .. limits.named(tq.name, task), 0, 0, 'WITHSCORES')
  if not first[2] or call('HEXISTS', hash, limits.block_field(task)) == 1 then
    call('ZREM', tasks, task)
  else
    if not tag then
      local score = call('ZSCORE', tasks, task)
      tag = score and score % PRIORITY_STEP or (call('HGET', hash, 'c') or 0) + 1
    end
    call('ZADD', tasks, first[2] - first[2] % PRIORITY_STEP + tag, task)
  end
  limits.settle_tenant_queue(tq)
end

-- The last job of a key's sub-queue is gone; `task_tag` is a new virtual finish time.
local function forget_key(tq, task, key, task_tag)
  local hash = limits.hash_of(tq)
  call('ZREM', P .. 'keys:' .. limits.named(tq.name, task), key)
  drop_block(tq, task, key)
  if call('HINCRBY', hash, 'n:' .. task, -1) > 0 then return settle_task(tq, task, task_tag) end
  drop_block(tq, task)
  call('ZREM', P .. 'lanes:' .. tq.name, task)
  call('HDEL', hash, 'n:' .. task, 'c:' .. task)
  if call('HINCRBY', hash, 'n', -1) <= 0 then call('HDEL', hash, 'n', 'q', 'c', 'p') end
  limits.settle_tenant_queue(tq)
end

-- The same of a key's sub-queue that has, or had, jobs; the tags are new ones.
function limits.settle_key(tq, task, key, key_tag, task_tag)
  local hash, keys = limits.hash_of(tq), P .. 'keys:' .. limits.named(tq.name, task)
  local first = call('ZRANGE', P .. 'lane:' .. limits.named(tq.name, task, key), 0, 0, 'WITHSCORES')
  if not first[2] then return forget_key(tq, task, key, task_tag) end
  if key ~= '' and call('HEXISTS', hash, limits.block_field(task, key)) == 1 then
    call('ZREM', keys, key)
  else
    if not key_tag then
      local score = call('ZSCORE', keys, key)
      key_tag = score and score % PRIORITY_STEP or (call('HGET', hash, 'c:' .. task) or 0) + 1
    end
    call('ZADD', keys, first[2] - first[2] % PRIORITY_STEP + key_tag, key)
  end
  settle_task(tq, task, task_tag)
end

-- ---- jobs in and out of sub-queues

function limits.insert(tq, task, key, score, id)
  mark(tq)
  local hash, jobs = limits.hash_of(tq), P .. 'lane:' .. limits.named(tq.name, task, key)
  local is_new = call('EXISTS', jobs) == 0
  if call('ZADD', jobs, score, id) == 1 then call('HINCRBY', hash, 'q', 1) end
  if is_new and call('HINCRBY', hash, 'n:' .. task, 1) == 1 then call('HINCRBY', hash, 'n', 1) end
  limits.settle_key(tq, task, key)
end

-- Writes the keys that insert_many() only noted.
local function write_new_keys(name, t)
  if t.new_keys == 0 then return end
  call('HINCRBY', limits.hash_of(t.tq), 'n:' .. t.task, t.new_keys)
  in_pieces('ZADD', P .. 'keys:' .. name, t.turns)
  t.turns, t.new_keys = {}, 0
end

-- Inserts jobs, of which the first one comes first. `known` is kept for all insertions of which only the last is followed by
-- write_inserted(), and nothing else happens between: what it has of a task that is open need not be looked at again.
function limits.insert_many(known, tq, task, key, list, n)
  mark(tq)
  local name, jobs = limits.named(tq.name, task), P .. 'lane:' .. limits.named(tq.name, task, key)
  local is_new, t = call('EXISTS', jobs) == 0, known[name]
  list.n = n
  in_pieces('ZADD', jobs, list)
  if not t then
    t = { tq = tq, task = task, jobs = 0, new_keys = 0, turns = {} }
    known[name] = t
  end
  t.jobs = t.jobs + n / 2
  local first = tonumber(list[1])
  local level = first - first % PRIORITY_STEP
  if t.level and is_new and level >= t.level then
    local turns = t.turns
    turns[#turns + 1], turns[#turns + 2], t.new_keys = level + t.tag, key, t.new_keys + 1
    return
  end
  if not is_new and call('ZRANGE', jobs, 0, 0)[1] ~= list[2] then return end
  local hash = limits.hash_of(tq)
  -- This key may be one of them.
  write_new_keys(name, t)
  if is_new and call('HINCRBY', hash, 'n:' .. task, 1) == 1 then call('HINCRBY', hash, 'n', 1) end
  limits.settle_key(tq, task, key)
  local score = call('ZSCORE', tq.fair, tq.tenant) and call('ZSCORE', P .. 'lanes:' .. tq.name, task)
  t.level = score and score - score % PRIORITY_STEP
  t.tag = (call('HGET', hash, 'c:' .. task) or 0) + 1
end

function limits.write_inserted(known)
  for name, t in pairs(known) do
    call('HINCRBY', limits.hash_of(t.tq), 'q', t.jobs)
    write_new_keys(name, t)
  end
end

function limits.take_out(tq, task, key, id, key_tag, task_tag)
  if call('ZREM', P .. 'lane:' .. limits.named(tq.name, task, key), id) == 0 then return end
  call('HINCRBY', limits.hash_of(tq), 'q', -1)
  limits.settle_key(tq, task, key, key_tag, task_tag)
end

-- Nobody changes what is answered.
function limits.read_options(text)
  local options = options_by_text[text]
  if not options then
    if options_n == MOST_OPTIONS then options_by_text, options_n = {}, 0 end
    options_n = options_n + 1
    local v = { unpack_struct(OPTIONS, text) }
    options = { on_lost = v[2], has_limits = v[3] == 1, concurrency = v[7], key_concurrency = v[11], key = v[12],
      wins = v[13], for_ms = v[14], max_wait_ms = v[15], unique = v[16] }
    if v[4] > 0 then options.rate = { v[4], v[5], v[6] } end
    if v[8] > 0 then options.key_rate = { v[8], v[9], v[10] } end
    options_by_text[text] = options
  end
  return options
end

function limits.options_of(member, flags)
  local text = has(flags, HAS_OPTIONS) and call('GET', P .. 'more:' .. member)
  return text and limits.read_options(text)
end

local function task_in(fixed)
  local at = 2 + byte(fixed)
  return sub(fixed, at + 1, at + byte(fixed, at))
end

-- Queues a job in its sub-queue, if it has one.
function limits.enter(member, r, tq)
  local options = limits.options_of(member, r[FLAGS])
  if not options or not options.has_limits then return false end
  r[FLAGS] = r[FLAGS] + IN_SUB_QUEUE
  limits.insert(tq, task_in(r[FIXED]), options.key, r[SCORE], id_of(member))
  return true
end

-- Task and key of the sub-queue of a job.
function limits.sub_queue_of(member, r)
  local options = limits.options_of(member, r[FLAGS])
  return task_in(r[FIXED]), options and options.has_limits and options.key or ''
end

-- The same; it is in none from now on.
local function out_of_sub_queue(member, r)
  r[FLAGS] = r[FLAGS] - IN_SUB_QUEUE
  return limits.sub_queue_of(member, r)
end

function limits.leave(member, r, tq)
  local task, key = out_of_sub_queue(member, r)
  limits.take_out(tq, task, key, id_of(member))
end

-- ---- blocking, and opening again

function limits.block(tq, why, at, task, key)
  mark(tq)
  call('HSET', limits.hash_of(tq), limits.block_field(task, key), why)
  if why == UNTIL then call('ZADD', P .. 'parked', at, limits.named(tq.name, task, key)) end
  local blocked = limits.blocked_set(why, tq.tenant, task, key)
  if blocked then call('SADD', blocked, tq.queue) end
  if key then
    limits.settle_key(tq, task, key)
  elseif task then
    settle_task(tq, task)
  else
    limits.settle_tenant_queue(tq)
  end
end

-- Opens what is blocked for this reason, or for any; whether it was.
function limits.unblock(tq, why, task, key)
  local found = call('HGET', limits.hash_of(tq), limits.block_field(task, key))
  if not found or (why and found ~= why) then return false end
  drop_block(tq, task, key, found)
  notifying = true
  if key then
    limits.settle_key(tq, task, key)
  elseif task then
    settle_task(tq, task)
  else
    limits.settle_tenant_queue(tq)
  end
  notifying = false
  return true
end

-- For all of its jobs.
function limits.settle_and_notify(tq)
  notifying = true
  limits.settle_tenant_queue(tq)
  notifying = false
  if ready_in[tq.queue] then
    local in_sub_queues = tonumber(call('HGET', limits.hash_of(tq), 'q') or 0)
    ready_in[tq.queue] = ready_in[tq.queue] + call('ZCARD', tq.ready) + in_sub_queues
  end
end

-- Opens what a cap of the tenant, the task or the key had blocked, in all queues.
function limits.unblock_all(why, tenant, task, key)
  local blocked = limits.blocked_set(why, tenant, task, key)
  local queues = call('SMEMBERS', blocked)
  -- What opens first is served first.
  table.sort(queues, turns.before)
  for _, queue in ipairs(queues) do
    if not limits.unblock(tenant_queue_of(tenant, queue), why, task, key) then call('SREM', blocked, queue) end
  end
end

local function count_running(name, more)
  if call('HINCRBY', P .. 'used', name, more) <= 0 then call('HDEL', P .. 'used', name) end
end

-- A delivery ended: opens what waited for its capacity. Without a record: of a plain job.
function limits.release_capacity(tq, member, r)
  local tenant = tq.tenant
  if r and r[FLAGS] >= IN_SUB_QUEUE then
    local task, key = out_of_sub_queue(member, r)
    count_running(limits.named(tenant, task), -1)
    limits.unblock_all(BY_TASK, tenant, task)
    if key ~= '' then
      count_running(limits.named(tenant, task, key), -1)
      limits.unblock_all(BY_KEY, tenant, task, key)
    end
  end
  if limits.is_controlled(tenant) then
    limits.unblock(tq, BY_QUEUE)
    limits.unblock_all(BY_TENANT, tenant)
  end
end

-- One more delivery gives back what a name counts; what may open then follows it.
local function add_freed(name, ...)
  if not freed[name] then
    freed[name], opening[#opening + 1] = 0, { name, ... }
  end
  freed[name] = freed[name] + 1
end

-- The same, of a task and key or (without) of a plain job, is done by release_freed() for many that end one after the other.
function limits.free(tq, task, key)
  local tenant = tq.tenant
  if task then
    add_freed(limits.named(tenant, task), BY_TASK, tenant, task)
    if key ~= '' then add_freed(limits.named(tenant, task, key), BY_KEY, tenant, task, key) end
  end
  if limits.is_controlled(tenant) then
    -- No name of a counter has a space.
    add_freed(tq.name .. ' ', BY_QUEUE, tq)
    add_freed(tenant .. ' ', BY_TENANT, tenant)
  end
end

-- Counts down how many jobs of these names run.
local function count_ended(names, ended_of)
  local running, left, gone = call('HMGET', P .. 'used', unpack(names)), {}, {}
  for i, name in ipairs(names) do
    local count = (running[i] or 0) - ended_of[name]
    if count > 0 then left[#left + 1], left[#left + 2] = name, count else gone[#gone + 1] = name end
  end
  in_pieces('HSET', P .. 'used', left)
  in_pieces('HDEL', P .. 'used', gone)
end

function limits.release_freed()
  local list, counts, names, sets = opening, freed, {}, {}
  if #list == 0 then return end
  freed, opening = {}, {}
  for _, open in ipairs(list) do
    local why = open[2]
    if why == BY_TASK or why == BY_KEY then names[#names + 1] = open[1] end
    if why ~= BY_QUEUE then sets[#sets + 1] = limits.blocked_set(why, open[3], open[4], open[5]) end
  end
  if #names > 0 then count_ended(names, counts) end
  -- Mostly nothing is blocked.
  local is_blocked = #sets > 0 and call('EXISTS', unpack(sets)) > 0
  for _, open in ipairs(list) do
    if open[2] == BY_QUEUE then
      limits.unblock(open[3], BY_QUEUE)
    elseif is_blocked then
      limits.unblock_all(open[2], open[3], open[4], open[5])
    end
  end
end

-- Opens at most `max` of what a rate had blocked until now, and no more than some 2 ms allow: the rest is due at once.
-- Answers how many, and when the next one is to be opened, if one is.
function limits.open_rates(max)
  local due = call('ZRANGEBYSCORE', P .. 'parked', '-inf', now, 'LIMIT', 0, math.min(max, RATES_AT_ONCE))
  for _, name in ipairs(due) do
    local tenant, queue, task, key = string.match(name, '^([^,]*),([^,]*),?([^,]*),?([^,]*)$')
    limits.unblock(tenant_queue_of(tenant, queue), UNTIL, task ~= '' and task or nil, key ~= '' and key or nil)
    call('ZREM', P .. 'parked', name)
  end
  return #due, tonumber(call('ZRANGE', P .. 'parked', 0, 0, 'WITHSCORES')[2])
end
