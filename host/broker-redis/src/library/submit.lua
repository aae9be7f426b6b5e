-- Submission of jobs, each on its own.

-- A packed job, see encode.rs: priority, flags, deliveries, kind of start, start, expiry (a duration, a time), retention of its
-- record and as a dead job, member, queue, immutable part, large spec, idempotency key, body and time, the dead job that it
-- replaces, broker options.
local FORMAT = '<BBI4BI6I6I6I6I6Bc0Bc0I4c0I4c0I2c0I2c0I6Bc0I2c0'
-- Of this call: limits, the failure of a superseded job and what stands in it for the other's id, the arrival before the next
-- one, how many were reserved, one letter per job, and ids.
local max_backlog, max_queues, superseded, by, arrival, count, codes, ids

-- The jobs of this call may use the next `count` numbers.
local function reserve()
  arrival = call('INCRBY', P .. 'seq', count) - count
end

local function room(tq)
  if not tq.counted then
    local queues = P .. 'queues:' .. tq.tenant
    local delayed = call('HGET', queues, tq.queue .. ':d')
    if not delayed then
      -- Every queue has three fields.
      if call('HLEN', queues) / 3 >= max_queues then return 'Q' end
      return nil
    end
    tq.known, tq.counted = true, true
    local in_sub_queue = is_special(tq) and call('HGET', P .. 'line:' .. tq.name, 'q') or 0
    tq.backlog = call('ZCARD', tq.ready) + in_sub_queue + delayed + tq.delayed
  end
  if tq.backlog >= max_backlog then return 'F' end
end

local function answer(code, id)
  codes[#codes + 1] = code
  if id then ids[#ids + 1] = id end
end

-- Jobs came and went in other ways than these.
local function count_again()
  flush_indexes()
  for _, tq in pairs(tenant_queues) do tq.counted = false end
end

-- Gives a new job its unique key, and ends the one that it supersedes. Since when they do that, and the score of that one.
local function supersede(tenant, id, options, queue, priority)
  local failure = (string.gsub(superseded, by, id))
  local since, took, score = unique.supersede(tenant, id, options, failure, queue, priority)
  if took then count_again() end
  return since, score
end

local function submit(blob)
  local priority, flags, max_deliveries, start, start_ms, expires_ms, expires_at, result_ttl, dead_ttl, member, queue, fixed,
    apart, idem_key, idem_body, idem_ttl, redrive, more = unpack_struct(FORMAT, blob)
  local tenant, id = tenant_of(member), id_of(member)
  local key = P .. 'job:' .. member
  local tq = tenant_queue_of(tenant, queue)
  local options = #more > 0 and sub_queues.read_options(more)
  if #idem_key > 0 or #redrive > 0 or options then
    if call('EXISTS', key) == 1 then return answer('E', id) end
    if #idem_key > 0 then
      local code, first = idempotency.known(tenant, idem_key, idem_body)
      if code then return answer(code, first) end
    end
    local first = options and unique.find_duplicate(tenant, options)
    if first then
      if #idem_key > 0 then idempotency.keep(tenant, idem_key, idem_body, idem_ttl, first) end
      return answer('D', first)
    end
    if #redrive > 0 and not call('ZSCORE', P .. 'dead:' .. tenant, redrive) then return answer('N') end
  end
  local refusal = room(tq)
  if refusal then
    if call('EXISTS', key) == 1 then return answer('E', id) end
    return answer(refusal)
  end

  local due = start_ms
  if start == 1 then due = now + start_ms end
  local inherited
  if options and options.wins > 0 then
    local since
    since, inherited = supersede(tenant, id, options, queue, priority)
    if start == 1 and options.wins == 2 and options.max_wait_ms > 0 then due = math.min(due, since + options.max_wait_ms) end
  end
  due = math.min(due, MAX_MS)
  local expires = 0
  if expires_ms > 0 then expires = math.min(now + expires_ms, MAX_MS) end
  if expires_at > 0 and (expires == 0 or expires_at < expires) then expires = expires_at end
  local state, score = QUEUED, (9 - priority) * PRIORITY_STEP + arrival + 1
  if start == 0 or due <= now then due, score = 0, inherited or score else state, score = SCHEDULED, 0 end
  local in_sub_queue = state == QUEUED and options and options.has_limits
  if in_sub_queue then flags = flags + IN_SUB_QUEUE end
  local text = pack(FULL, 1, state, flags, priority, 0, 0, max_deliveries, now, expires, due, 0, 0, score, 0, result_ttl,
    dead_ttl, 0, '', 0, '', #fixed, fixed, 0, '', 0, '', 0, '', 0, 0, '')
  if not call('SET', key, text, 'NX') then return answer('E', id) end

  if #redrive > 0 then dead_set.leave(tenant, redrive) end
  if #more > 0 then call('SET', P .. 'more:' .. member, more) end
  if #idem_key > 0 then idempotency.keep(tenant, idem_key, idem_body, idem_ttl, id) end
  if #apart > 0 then call('SET', P .. 'spec:' .. member, apart) end
  if not tq.known then
    make_queue(tq)
    tq.counted, tq.backlog = true, 0
  end
  tq.backlog, tq.used = tq.backlog + 1, true
  zadd(P .. 'jobs:' .. tenant, '0', id)
  add_event(member, state, fixed, 1)
  if state == QUEUED then
    arrival = arrival + 1
    if expires > 0 then zadd(P .. 'look', expires, member) end
    if in_sub_queue then
      sub_queues.insert(tq, sub_queues.task_in(fixed), options.key, score, id)
      ready_in[queue] = (ready_in[queue] or 0) + 1
    else
      put_ready(tq, score, id)
    end
  else
    if expires > 0 and expires < due then due = expires end
    zadd(P .. 'look', due, member)
    tq.delayed = tq.delayed + 1
  end
  codes[#codes + 1] = 'C'
end

-- Stores jobs, and goes on with the work items after the first one that is new.
-- ARGV[2] max_backlog   ARGV[3] max_queues   ARGV[4] failure of a superseded job, JSON text   ARGV[5] what stands in it for the
--   other's id   ARGV[6…] one packed job each, see FORMAT and encode.rs
-- Returns { codes, id… }: one letter per job (C created, E existing, X conflict, F queue full, Q too many queues,
--   N not dead, D duplicate); E, X and D take the next id.
-- Complexity: O(n log N). A plain job is one SET; the indexes are written in one call each.
register('submit', '', function(args)
  max_backlog, max_queues, superseded, by = tonumber(args[2]), tonumber(args[3]), args[4], args[5]
  count, codes, ids = #args - 5, {}, { '' }
  reserve()
  local has_work = call('EXISTS', P .. 'todo') == 1
  for i = 6, #args do
    submit(args[i])
    if has_work and codes[#codes] == 'C' then
      work.advance()
      count_again()
      has_work = false
      -- What has become ready was there before the jobs that follow.
      reserve()
    end
  end
  flush()
  notify()
  ids[1] = table.concat(codes)
  return ids
end)
