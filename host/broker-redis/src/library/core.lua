-- The core of the library: the stored record, the clock, the state of one call, the indexes, and how a job waits.
-- Its locals are in scope in every file behind it; each other file gives the next ones a table.
--
-- Every function has KEYS[1] `<prefix>meta`, from which the prefix of all other keys is taken, and KEYS[2] `<prefix>never`,
-- which no key has. ARGV[1] is the time, milliseconds, or nothing for the server's own clock; then ';' and how many dead jobs
-- a tenant has; then, each behind ';', how many bytes of jobs and of documents it may store, or nothing. What is said of ARGV
-- elsewhere begins with ARGV[2].
--
-- A job is named by its member, '<tenant>,<id>': ',' sorts before all that may be in a tenant's name, so members sort as
-- the pair does. What users sent (spec, result, failure, logs) passes through as it is and is never parsed.
-- Numbers stay below 2^53. They go to redis.call as numbers (Redis writes them with %.17g), never through '..', which
-- writes %.14g. Short names: `tq` is a tenant queue, `r` a record as a table, `wf` a workflow, `P` the prefix of all keys.

-- The version of the store's layout that this library knows; `VERSION` in keys.rs.
local LAYOUT = '3'

-- The stored record; encode.rs and decode.rs do the same. HEAD changes with every step, the rest seldom.
-- Redis' Lua hashes every byte of every string that it makes, 0.6 us for a record: few and short strings are fast ones.
local HEAD = '<BBBBI4I4I4I6I6I6I6I6I7I7I6I6Bc0Bc0'
local FULL = HEAD .. 'I4c0I4c0I4c0I4c0BI4c0'
-- Behind that, for each attempt of the history in the same order, the rest of its usage as a line of text, which may be empty: see
-- rules/history.rs. A process of an older release passes over it, and leaves it out of a record that it writes. A record that ends
-- in zeros would be one without attempts for it.
local STATE, FLAGS, PRIORITY, RETRIES, DELIVERIES, MAX_DELIVERIES = 2, 3, 4, 5, 6, 7
local EXPIRES, DUE, FINISHED, SCORE, RESULT_TTL, DEAD_TTL = 9, 10, 12, 13, 15, 16
local TOKEN, WORKER, FIXED, RESULT, FAILURE, PROGRESS, HISTORY_LEN, HISTORY = 17, 18, 19, 20, 21, 22, 23, 24
-- Flags, as numbers that are added.
-- NODE: of a workflow. REPLACED: the id of the workflow that replaced it stands for its result. HAS_OPTIONS: it has broker
-- options. LET_END: cancelled, and left to end. IN_SUB_QUEUE: queued in a sub-queue, or running and counted for its limits.
local CANCEL, SPEC_APART, HISTORY_APART, NODE, REPLACED, HAS_OPTIONS, LET_END, IN_SUB_QUEUE = 1, 2, 4, 8, 16, 32, 64, 128
local SCHEDULED, QUEUED, RUNNING, RETRYING, SUCCEEDED, FAILED, REVOKED, EXPIRED, WAITING, SKIPPED =
  0, 1, 2, 3, 4, 5, 6, 7, 8, 9
-- How FULL writes result, failure, progress and history when they are empty.
local NOTHING_YET = '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0'
-- The largest time or duration that a record holds, milliseconds: 8,900 years.
local MAX_MS = 281474976710655
-- Priorities are worth so much in a score; what is below is the arrival of a job, or a virtual finish time.
local PRIORITY_STEP = 281474976710656
-- Bytes of history kept in the record itself; more goes into a list of its own.
local HISTORY_INLINE = 2048
local MAX_HISTORY = 50
local MAX_EVENTS = 10000
-- Bytes of texts at which a page of jobs, nodes or documents ends; PAGE_BYTES in the broker's contract.
local PAGE_BYTES = 1048576

-- While a library is loaded, Redis lets it use no library of Lua and no command: the first call binds them.
local call, pack, unpack_struct, sub, byte
-- Texts that are made once: each byte; the last three digits of a number; numbers.
local CHARS, DIGITS, NUMBERS = {}, {}, {}

local function bind()
  call, pack, unpack_struct, sub, byte = redis.call, struct.pack, struct.unpack, string.sub, string.byte
  for i = 0, 255 do CHARS[i] = string.char(i) end
  for i = 0, 999 do DIGITS[i], NUMBERS[i] = string.format('%03d', i), string.format('%d', i) end
end

-- What the other files give: labels, sub-queues and limits, unique keys, the dead set, workflows, work items, new workflows,
-- idempotency keys, deletion, whose turn it is, claims, key-value entries; the bytes that tenants have stored; sums of usage, blobs;
-- the submission of one job, schedules.
local labels, limits, unique, dead_set, workflows, work, storage = {}, {}, {}, {}, {}, {}, {}
local new_workflows, idempotency, deletion, turns, claims, kv, usage, blobs = {}, {}, {}, {}, {}, {}, {}, {}
local submission, schedules = {}, {}

-- ---- the state of one call

-- The prefix of all keys, the time, and the limit of dead jobs.
local P, now, max_dead
-- Index writes by key, tenant queues by name, ids that ended, and how many; ids to stop.
local added, removed, tenant_queues, ended, ended_n, to_stop
-- How many jobs of a queue have become ready, and whether one of its tenants had none before.
local ready_in, opened_in
-- Whether there is a key `special`, and whether it names subscribers; subscriptions by tenant.
local anything_special, anybody_subscribed, subscriptions
-- Numbers of arrivals: `last`, `last_known` and `last_counted` are those in the store, see labels.lua and storage.lua; those
-- behind `own` up to `own_end` are reserved, and of the next ones so many will be (`block`).
local arrivals = {}

-- Functions that reset the state of other files.
local resets = {}

-- Begins a call: nothing of one before may be left, however it ended. Answers an error when the store is of a newer layout.
local function begin(keys, args)
  if not call then bind() end
  P = sub(keys[1], 1, -5)
  local found = call('MGET', keys[1], P .. 'seq', P .. 'meta:seq', P .. 'meta:counted_seq', P .. 'meta:recounting_v1')
  local stored = found[1]
  arrivals.last, arrivals.last_known, arrivals.last_counted = found[2], found[3], found[4]
  storage.watch(found[5])
  if stored and stored ~= LAYOUT and (tonumber(stored) or math.huge) > tonumber(LAYOUT) then
    return redis.error_reply('OUTGROWN it holds data of version ' .. stored)
  end
  local job_bytes, document_bytes
  now, max_dead, job_bytes, document_bytes = string.match(args[1], '^(%d*);(%d+);?(%d*);?(%d*)$')
  now = tonumber(now)
  storage.limit_each(tonumber(job_bytes) or 0, tonumber(document_bytes) or 0)
  if not now then
    local t = call('TIME')
    now = t[1] * 1000 + math.floor(t[2] / 1000)
  end
  added, removed, tenant_queues, ended, ended_n, to_stop = {}, {}, {}, {}, 0, {}
  ready_in, opened_in = {}, {}
  anything_special, anybody_subscribed, subscriptions = nil, nil, {}
  arrivals.own, arrivals.own_end, arrivals.block = 0, 0, 1
  for i = 1, #resets do resets[i]() end
end

-- Makes a function of the library. `flags` are those of Redis: 'allow-oom' for what must be done also when Redis is full,
-- 'no-writes' for what reads only, '' for what adds something and is refused when Redis is full.
local function register(name, flags, run)
  redis.register_function({
    function_name = LIBRARY .. '_' .. name,
    callback = function(keys, args)
      local refused = begin(keys, args)
      if refused then return refused end
      return run(args)
    end,
    flags = flags ~= '' and { flags } or {},
  })
end

-- ---- records

local function has(flags, flag)
  return flags % (flag * 2) >= flag
end

-- A record as a table. That of a node remembers the state that its workflow knows, each the bytes that its attempts left.
local function opened(text)
  local r = { unpack_struct(FULL, text) }
  -- What is read last is where it ended.
  r.used = sub(text, r[25])
  if has(r[3], NODE) then r.was = r[2] end
  r.left = storage.left(r)
  return r
end

-- The least that a record has. One that is damaged must not stop the others: it is passed over, and an audit tells of it.
local function is_readable(text)
  return #text >= 95 and byte(text) == 1 and byte(text, STATE) <= SKIPPED
end

-- The record of a job; nothing when there is none that can be read.
local function load(member)
  local text = call('GET', P .. 'job:' .. member)
  if not text or not is_readable(text) then return end
  local done, r = pcall(opened, text)
  return done and r or nil
end

local function save(member, r)
  if r.was and r.was ~= r[2] then workflows.node_changed(member, r) end
  local left = storage.left(r)
  if left ~= r.left then
    storage.add(sub(member, 1, -28), left - r.left)
    r.left = left
  end
  local token, worker, fixed, result, failure, progress, history =
    r[17], r[18], r[19], r[20], r[21], r[22], r[24]
  call('SET', P .. 'job:' .. member, pack(FULL, 1, r[2], r[3], r[4], r[5], r[6], r[7], r[8], r[9], r[10], r[11], r[12],
    r[13], r[14], r[15], r[16], #token, token, #worker, worker, #fixed, fixed, #result, result, #failure, failure,
    #progress, progress, r[23], #history, history) .. r.used)
end

-- The immutable part: length and text of the queue, of the task, then the spec.
local function queue_in(fixed)
  return sub(fixed, 2, 1 + byte(fixed))
end

local function is_over(state)
  return state >= SUCCEEDED and state ~= WAITING
end

local function tenant_of(member)
  return sub(member, 1, -28)
end

local function id_of(member)
  return sub(member, -26)
end

-- ---- indexes

-- Index writes are collected by key and sent in few calls.
local function zadd(key, score, member)
  local list = added[key]
  if not list then
    list = { n = 0 }
    added[key] = list
  end
  local n = list.n
  list[n + 1], list[n + 2], list.n = score, member, n + 2
end

local function zrem(key, member)
  local list = removed[key]
  if not list then
    list = { n = 0 }
    removed[key] = list
  end
  list.n = list.n + 1
  list[list.n] = member
end

-- Lua's stack bounds the arguments of one call.
local function in_pieces(command, key, list)
  local n = list.n or #list
  for i = 1, n, 1000 do
    call(command, key, unpack(list, i, math.min(i + 999, n)))
  end
end

-- A tenant's queue. What this call changes of its counters is added up here.
local function tenant_queue_of(tenant, queue)
  local name = tenant .. ',' .. queue
  local tq = tenant_queues[name]
  if not tq then
    tq = { tenant = tenant, queue = queue, name = name, member = tenant .. ',', job = P .. 'job:' .. tenant .. ',',
      ready = P .. 'ready:' .. name, fair = P .. 'fair:' .. queue, running = 0, picked = 0, delayed = 0 }
    tenant_queues[name] = tq
  end
  return tq
end

-- Sends the index writes: before a claim, and before a second write for the same job.
local function flush_indexes()
  for key, list in pairs(removed) do in_pieces('ZREM', key, list) end
  for key, list in pairs(added) do in_pieces('ZADD', key, list) end
  added, removed = {}, {}
end

-- Publishes the notifications of this call: one message per topic, and one per idle worker. Of new jobs are told the workers
-- that began to wait for them last: as many as there are jobs, and one more, because one may have died; first those that
-- named the queue, then those that serve all. A worker that was told waits again when it claims too few jobs. All are told of
-- a queue that had no jobs before when fewer workers wait for it than there are jobs.
local notify
do
  -- A hint may be lost, also because the user has no right to the channel: what the call wrote stays, and it must not fail.
  local function publish(channel, text)
    redis.pcall('PUBLISH', P .. channel, text)
  end

  -- Tells at most so many of the workers that wait in `idle:<of>`, those that began to last, of jobs in a queue; how many there
  -- were, and how many of them hear it.
  local function tell_idle(of, queue, most)
    if most <= 0 then return 0, 0 end
    local idle, told = call('ZPOPMAX', P .. 'idle:' .. of, most), 0
    for i = 1, #idle, 2 do
      -- A worker that has not claimed for ten seconds does not wait: it would have looked again.
      if tonumber(idle[i + 1]) > now - 10000 then
        publish('work:' .. idle[i], queue)
        told = told + 1
      end
    end
    return #idle / 2, told
  end

  function notify()
    local queues = {}
    for queue, jobs in pairs(ready_in) do
      local asked, told = tell_idle(queue, queue, jobs + 1)
      local _, more = tell_idle('*', queue, jobs + 1 - asked)
      if told + more < jobs and opened_in[queue] then queues[#queues + 1] = queue end
    end
    if #queues > 0 then publish('work', table.concat(queues, ',')) end
    if ended_n > 0 then publish('done', table.concat(ended, ',')) end
    if #to_stop > 0 then publish('cancel', table.concat(to_stop, ',')) end
  end
end

-- Whether a tenant queue has sub-queues or is blocked, or its tenant has a control: `special` names those tenant queues and
-- tenants.
local function is_anything_special()
  if anything_special == nil then anything_special = call('EXISTS', P .. 'special') == 1 end
  return anything_special
end

local function is_special(tq)
  if tq.special == nil then
    tq.special = false
    if is_anything_special() then
      local found = call('HMGET', P .. 'special', tq.tenant, tq.name)
      tq.special = (found[1] or found[2]) and true
    end
  end
  return tq.special
end

-- ---- event subscriptions, see the broker's events.rs: `followed` has '<until> <last number>' by tenant, and `special` has
-- ',' while there is a subscription, so that it costs nothing to find out that there is none.

-- The subscription of a tenant, or false.
local function subscription_of(tenant)
  local subscription = subscriptions[tenant]
  if subscription == nil then
    subscription = false
    local text = call('HGET', P .. 'followed', tenant)
    if text then
      local until_ms, last = string.match(text, '^(%d+) (%d+)$')
      if tonumber(until_ms) > now then
        subscription = { until_ms = until_ms, last = tonumber(last), n = 0 }
      else
        call('HDEL', P .. 'followed', tenant)
        call('UNLINK', P .. 'events:' .. tenant)
        if call('EXISTS', P .. 'followed') == 0 then call('HDEL', P .. 'special', ',') end
      end
    end
    subscriptions[tenant] = subscription
  end
  return subscription
end

local function is_anybody_subscribed()
  if anybody_subscribed == nil then
    anybody_subscribed = is_anything_special() and call('HEXISTS', P .. 'special', ',') == 1
  end
  return anybody_subscribed
end

-- A job's state was changed. Its immutable part begins at `at` in `text`.
local function add_event(member, state, text, at)
  local subscription = is_anybody_subscribed() and subscription_of(tenant_of(member))
  if not subscription then return end
  at = at + 1 + byte(text, at)
  local n = subscription.n + 1
  subscription[n], subscription.n = pack('<I6B', now, state) .. id_of(member) .. sub(text, at + 1, at + byte(text, at)), n
end

local function flush_events()
  local highest
  for tenant, subscription in pairs(subscriptions) do
    if subscription and subscription.n > 0 then
      local key = P .. 'events:' .. tenant
      in_pieces('RPUSH', key, subscription)
      call('LTRIM', key, 0 - MAX_EVENTS, -1)
      subscription.last = subscription.last + subscription.n
      call('HSET', P .. 'followed', tenant, string.format('%s %.0f', subscription.until_ms, subscription.last))
      highest = math.max(highest or 0, subscription.last)
    end
  end
  subscriptions = {}
  -- Numbers rise also when the clock goes back between two subscriptions.
  if highest and highest > tonumber(call('GET', P .. 'last_event') or 0) then call('SET', P .. 'last_event', highest) end
end

-- Makes a tenant's queue, unless there is one.
local function make_queue(tq)
  tq.known = true
  local queues, queue = P .. 'queues:' .. tq.tenant, tq.queue
  if call('HEXISTS', queues, queue .. ':p') == 1 then return end
  call('HINCRBY', queues, queue .. ':r', 0)
  call('HINCRBY', queues, queue .. ':d', 0)
  call('HSET', queues, queue .. ':p', 0)
  tq.used = true
end

-- Sends what was collected. Called once, at the end.
local function flush()
  work.flush()
  labels.flush()
  flush_indexes()
  flush_events()
  blobs.flush()
  storage.flush()
  usage.flush()
  for _, tq in pairs(tenant_queues) do
    local queues = P .. 'queues:' .. tq.tenant
    if tq.used then
      -- It may have been forgotten while a node waited for its turn in it.
      if not tq.known then make_queue(tq) end
      call('ZADD', P .. 'queue_used', now, tq.name)
      tq.used = false
    end
    -- Where nothing runs, nobody asks who ran it.
    if tq.running ~= 0 and call('HINCRBY', queues, tq.queue .. ':r', tq.running) <= 0 then
      call('HDEL', P .. 'holders', tq.name)
    end
    if tq.delayed ~= 0 then call('HINCRBY', queues, tq.queue .. ':d', tq.delayed) end
    tq.running, tq.delayed = 0, 0
  end
end

-- ---- how a job waits

-- By bytes, as Redis sorts: '<' follows the server's locale.
function turns.before(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = byte(a, i), byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

-- Virtual time begins here: above all turns that releases before fair queueing over all queues have counted.
turns.FIRST = 1099511627776

-- Puts a tenant queue that opens among the open ones of its tenant, behind the one that was served least, and the tenant among
-- those that wait for their turn, see turns.lua; its virtual finish time.
function turns.join(tq)
  local waits, open = call('ZSCORE', P .. 'meta:turns', tq.tenant), P .. 'meta:open:' .. tq.tenant
  local turn, known = (call('GET', P .. 'meta:turn') or turns.FIRST) - 1, waits
  if not waits then
    known = call('ZSCORE', P .. 'meta:rested', tq.tenant)
    if known then call('ZREM', P .. 'meta:rested', tq.tenant) end
  end
  turn = math.max(turn, tonumber(known or 0))
  if turn ~= tonumber(waits or 0) then call('ZADD', P .. 'meta:turns', turn, tq.tenant) end
  -- One that waits for no turn has nothing open.
  local first = waits and call('ZRANGE', open, 0, 0, 'WITHSCORES') or {}
  call('ZADD', open, 'NX', first[2] and first[2] + 1 or 0, tq.queue)
  return turn
end

-- These tenants, behind their virtual finish times, wait for nothing any more. That is remembered as long as others wait.
function turns.rest(tenants)
  if call('EXISTS', P .. 'meta:turns') == 1 then
    in_pieces('ZADD', P .. 'meta:rested', tenants)
  else
    call('UNLINK', P .. 'meta:rested')
  end
end

-- The tenant queue is not open any more.
function turns.leave(tq)
  local open = P .. 'meta:open:' .. tq.tenant
  tq.active = false
  call('ZREM', tq.fair, tq.tenant)
  call('ZREM', open, tq.queue)
  if call('EXISTS', open) == 1 then return end
  local turn = call('ZSCORE', P .. 'meta:turns', tq.tenant)
  if not turn then return end
  call('ZREM', P .. 'meta:turns', tq.tenant)
  turns.rest({ turn, tq.tenant })
end

-- The same of the only one that is open.
function turns.leave_alone(tq)
  tq.active = false
  call('ZREM', tq.fair, tq.tenant)
  call('UNLINK', P .. 'meta:turns', P .. 'meta:open:' .. tq.tenant, P .. 'meta:rested')
end

-- The tenant queue opens.
function turns.open(tq)
  opened_in[tq.queue] = true
  call('ZADD', P .. 'active_queues', 0, tq.queue)
  call('ZADD', tq.fair, turns.join(tq), tq.tenant)
end

-- The tenant queue has ready jobs, or will have them at the end of this call.
local function activate(tq)
  if tq.active then return end
  tq.active = true
  if call('ZSCORE', tq.fair, tq.tenant) then return end
  if call('HGET', P .. 'queues:' .. tq.tenant, tq.queue .. ':p') ~= '1' then turns.open(tq) end
end

-- A plain job becomes ready. Of a tenant queue with sub-queues nothing is written later than it is read.
local function put_ready(tq, score, id)
  if is_special(tq) then
    call('ZADD', tq.ready, score, id)
    limits.settle_tenant_queue(tq)
  else
    zadd(tq.ready, score, id)
    activate(tq)
  end
  tq.used = true
  ready_in[tq.queue] = (ready_in[tq.queue] or 0) + 1
end

-- To the ready jobs, with the score in the record.
local function enqueue(member, r, tq)
  if r[STATE] == SCHEDULED or r[STATE] == RETRYING then zrem(P .. 'look', member) end
  -- Since when it is queued.
  r[STATE], r[DUE] = QUEUED, now
  if r[EXPIRES] > 0 then zadd(P .. 'look', r[EXPIRES], member) end
  tq.used = true
  ready_in[tq.queue] = (ready_in[tq.queue] or 0) + 1
  add_event(member, QUEUED, r[FIXED], 1)
  if r[FLAGS] >= HAS_OPTIONS and limits.enter(member, r, tq) then return end
  call('ZADD', tq.ready, r[SCORE], id_of(member))
  if is_special(tq) then limits.settle_tenant_queue(tq) else activate(tq) end
end

-- Takes `count` numbers of arrivals; the one before the first. Processes of older releases count in `seq` alone, or do not
-- know the last key.
function arrivals.take(count)
  if arrivals.last ~= arrivals.last_known then labels.distrust() end
  if arrivals.last ~= arrivals.last_counted then storage.distrust() end
  local before = tonumber(arrivals.last or 0)
  local last = before + count
  arrivals.last, arrivals.last_known, arrivals.last_counted = last, last, last
  call('MSET', P .. 'seq', last, P .. 'meta:seq', last, P .. 'meta:counted_seq', last)
  return before
end

-- The score of a job that joins its tenant queue now. Numbers are taken from the store in growing blocks.
local function new_score(priority)
  if arrivals.own == arrivals.own_end then
    local block = arrivals.block
    arrivals.own = arrivals.take(block)
    arrivals.own_end, arrivals.block = arrivals.own + block, math.min(4 * block, 256)
  end
  arrivals.own = arrivals.own + 1
  return (9 - priority) * PRIORITY_STEP + arrivals.own
end

local function delay(member, r, tq, state, due)
  due = math.min(due, MAX_MS)
  r[STATE], r[DUE] = state, due
  add_event(member, state, r[FIXED], 1)
  local look = due
  if r[EXPIRES] > 0 and r[EXPIRES] < due then look = r[EXPIRES] end
  zadd(P .. 'look', look, member)
  tq.delayed, tq.used = tq.delayed + 1, true
end

-- Takes a job out of whatever it waits in.
local function leave(member, r, tq)
  local state = r[STATE]
  if state == QUEUED then
    if r[FLAGS] >= IN_SUB_QUEUE then return limits.leave(member, r, tq) end
    call('ZREM', tq.ready, id_of(member))
    if is_special(tq) then
      limits.settle_tenant_queue(tq)
    elseif call('EXISTS', tq.ready) == 0 then
      turns.leave(tq)
    end
  elseif state == RUNNING then
    zrem(P .. 'leases', member)
    tq.running = tq.running - 1
    if r[FLAGS] >= IN_SUB_QUEUE or is_special(tq) then limits.release_capacity(tq, member, r) end
  elseif state == SCHEDULED or state == RETRYING then
    tq.delayed = tq.delayed - 1
  end
end

-- Its name in `retain`. One that was replaced owns a workflow, which is deleted with it.
local function retained(member, flags)
  return has(flags, REPLACED) and member .. 'c' or member
end

local function notify_ended(member)
  ended_n = ended_n + 1
  ended[ended_n] = id_of(member)
end

-- Ends a job; it has left what it waited in. A failed one gets into the dead set if it has retention there, unless `dead`
-- is false.
local function finish(member, r, state, dead)
  local old = r[STATE]
  if old == SCHEDULED or old == RETRYING or (old == QUEUED and r[EXPIRES] > 0) then zrem(P .. 'look', member) end
  r[STATE], r[FINISHED], r[DUE] = state, now, 0
  add_event(member, state, r[FIXED], 1)
  local is_node, keep = has(r[FLAGS], NODE), r[RESULT_TTL]
  dead = state == FAILED and dead ~= false and (is_node or r[DEAD_TTL] > 0)
  local until_ms = now + (dead and math.max(keep, r[DEAD_TTL]) or keep)
  if r[FLAGS] >= HAS_OPTIONS then until_ms = math.max(until_ms, unique.release(member, r)) end
  notify_ended(member)
  if is_node then
    workflows.node_ended(member, r)
  else
    zadd(P .. 'retain', math.min(until_ms, MAX_MS), retained(member, r[FLAGS]))
  end
  if dead then dead_set.add(member, r) end
end

-- Appends to the history, with the rest of its usage. The first entry and the newest ones are kept, MAX_HISTORY together.
local function remember(member, r, entry, more)
  local key = P .. 'history:' .. member
  local inline, apart = r[HISTORY_LEN], 0
  if has(r[FLAGS], HISTORY_APART) then apart = call('LLEN', key) end
  local used = r.used
  -- Nothing is known of attempts that an older release recorded.
  if used == '' then used = string.rep('\n', inline + apart) end
  if inline + apart >= MAX_HISTORY then
    used = string.gsub(used, '^([^\n]*\n)[^\n]*\n', '%1')
    if inline >= 2 then
      local first = 4 + unpack_struct('<I4', r[HISTORY])
      local second = 4 + unpack_struct('<I4', r[HISTORY], first + 1)
      r[HISTORY] = sub(r[HISTORY], 1, first) .. sub(r[HISTORY], first + second + 1)
      r[HISTORY_LEN] = inline - 1
    elseif inline == 1 then
      storage.add(tenant_of(member), 0 - storage.attempt(call('LPOP', key)))
    else
      local first = call('LPOP', key)
      storage.add(tenant_of(member), 0 - storage.attempt(call('LPOP', key)))
      call('LPUSH', key, first)
    end
  end
  if apart > 0 or #r[HISTORY] + #entry > HISTORY_INLINE then
    call('RPUSH', key, entry)
    storage.add(tenant_of(member), storage.attempt(entry))
    if apart == 0 then r[FLAGS] = r[FLAGS] + HISTORY_APART end
  else
    r[HISTORY] = r[HISTORY] .. pack('<I4', #entry) .. entry
    r[HISTORY_LEN] = r[HISTORY_LEN] + 1
  end
  r.used = used .. more .. '\n'
end

-- Appends log lines, packed one behind the other from `at` in `blob`: the first ones, as far as there is room for them.
local function append_logs(member, blob, at, count, max_log_lines)
  if count == 0 then return end
  local key, list, bytes = P .. 'log:' .. member, {}, 0
  local tenant = tenant_of(member)
  for i = 1, math.min(count, max_log_lines - call('LLEN', key)) do
    local line
    line, at = unpack_struct('<I4c0', blob, at)
    if not storage.take(tenant, #line) then break end
    list[i], bytes = line, bytes + #line
  end
  in_pieces('RPUSH', key, list)
  storage.add(tenant, 0, bytes)
end

-- Makes the store one of this library's layout; from then on processes of older ones are refused. Called when a process
-- connects, because layouts 2 and 3 only added to the ones before. A layout that changes what older processes read must be
-- switched to by an operator, when none of them is connected.
register('take_over', 'allow-oom', function()
  local stored = call('GET', P .. 'meta')
  if stored == LAYOUT then return end
  -- See upgrade.rs.
  if stored then
    call('SET', P .. 'upgrading', stored)
  elseif not arrivals.last then
    labels.trust()
    storage.trust()
  end
  call('SET', P .. 'meta', LAYOUT)
end)
