-- Handing out jobs.

-- Worker, token seed, lease, max, how many jobs of a queue in a row, whether it hears what is published for it, whether it
-- asks all queues but these, number of queues; their names follow; then how many jobs of all limited tenants, their number,
-- and their names.
local CLAIM = '<Bc0Bc0I6I4I4BBI2'
-- Ready jobs that a claim looks at beyond those it returns; CLAIM_SCAN in the broker's contract.
local CLAIM_SCAN = 128

-- Of this claim: the worker, the token seed, the end of the leases, jobs handed out so far, the answer and its length.
local worker, seed, lease, count, out, out_n
-- Leases to write, entries of `look` to remove, tenant queues and who holds them.
local leases, looks, served
-- Picked jobs: tenant queues and ids; of those that were picked one by one records, tasks and keys of sub-queues; how many.
local picked_tqs, picked_ids, picked_texts, picked_tasks, picked_keys, picked_n = {}, {}, {}, {}, {}, 0
-- Keys and records of jobs. Kept from call to call, so that they grow once.
local keys, records = {}, {}
-- The beginning of a delivered record by that of a ready one; the same of what is between its score and its immutable part.
local fronts, middles

-- ---- which jobs

-- At most `want` ready jobs of one tenant: of the first tenant queue, then of the next ones. Answers how many.
local function pick_of_one(tqs, want)
  local n, counts, is_open = 0, {}, {}
  picked_ids = {}
  for i, tq in ipairs(tqs) do
    local found = call('ZRANGE', tq.ready, 0, want - n - 1)
    local count = #found
    call('ZREMRANGEBYRANK', tq.ready, 0, want - n - 1)
    if n == 0 then picked_ids = found else for k = 1, count do picked_ids[n + k] = found[k] end end
    for k = n + 1, n + count do picked_tqs[k] = tq end
    n, counts[i], is_open[i] = n + count, count, n + count == want and call('EXISTS', tq.ready) == 1
    if n == want then break end
  end
  if #tqs > 0 then turns.count_alone(tqs, counts, is_open) end
  return n
end

-- ---- their delivery

-- Keeps what is written when all have been handed out. The record is stored before a job runs: whatever fails from here on,
-- the lease brings it back.
local function hand_out(tq, member, text)
  local l = leases.n
  leases[l + 1], leases[l + 2], leases.n = lease, member, l + 2
  count = count + 1
  if claims.limited.tenants[tq.tenant] then claims.limited.left = claims.limited.left - 1 end
  tq.running, tq.handed_out = tq.running + 1, (tq.handed_out or 0) + 1
  if not tq.holder then
    local s = served.n
    tq.holder, served[s + 1], served[s + 2], served.n = worker, tq.name, worker, s + 2
  end
  out[out_n + 1], out[out_n + 2], out_n = member, text, out_n + 2
end

-- Delivers any job. One that has expired ends.
local function deliver(tq, id, text)
  local member = tq.tenant .. ',' .. id
  local key = P .. 'job:' .. member
  text = text or call('GET', key)
  if not text or not is_readable(text) then return end
  local _, state, flags, priority, retries, deliveries, max_deliveries, created, expires, _, _, _, score, fence, result_ttl,
    dead_ttl, _, _, rest = unpack_struct(HEAD, text)
  -- An index that names a job which does not wait is damaged.
  if state ~= QUEUED then return end
  if expires > 0 and expires <= now then
    local r = opened(text)
    finish(member, r, EXPIRED)
    return save(member, r)
  end
  if expires > 0 then
    looks.n = looks.n + 1
    looks[looks.n] = member
  end
  local token = seed .. '-' .. count
  local stored = text
  text = pack(HEAD, 1, RUNNING, flags, priority, retries, deliveries + 1, max_deliveries, created, expires, 0, now, 0, score,
    math.max(now * 1000, fence + 1), result_ttl, dead_ttl, #token, token, #worker, worker) .. sub(text, rest)
  call('SET', key, text)
  add_event(member, RUNNING, stored, rest + 4)
  hand_out(tq, member, text)
  if has(flags, SPEC_APART) then
    out_n = out_n + 1
    out[out_n] = call('GET', P .. 'spec:' .. member) or ''
  end
  if has(flags, NODE) then
    out[out_n + 1], out[out_n + 2] = workflows.delivered(member, stored, rest + 4)
    out_n = out_n + 2
  end
end

-- A job with something damaged must not take the others of this claim with it.
local function try(tq, id, text, task, key)
  local before = out_n
  if pcall(deliver, tq, id, text) then return end
  if task then claims.uncount_start(tq.tenant, task, key) end
  for i = #out, before + 1, -1 do out[i] = nil end
  out_n = before
end

-- The first 46 bytes, up to the score, of a record as it is delivered; false when there is more to do than that.
local function front_of(old)
  if #old < 46 or byte(old) ~= 1 then return false end
  local _, state, flags, _, _, deliveries, _, _, expires = unpack_struct('<BBBBI4I4I4I6I6', old)
  if state ~= QUEUED or expires > 0 or has(flags, SPEC_APART) or has(flags, NODE) then return false end
  return pack('BB', 1, RUNNING) .. sub(old, 3, 8) .. pack('<I4', deliveries + 1) .. sub(old, 13, 28)
    .. pack('<I6I6I6', 0, now, 0)
end

-- Fence and retentions; false when the record has a token or a worker.
local function middle_of(old)
  if sub(old, -2) ~= '\0\0' then return false end
  return pack('<I7', math.max(now * 1000, unpack_struct('<I7', old) + 1)) .. sub(old, 8, 19)
end

-- The records of the picked jobs.
local function read_picked(n)
  for i = 1, n do keys[i] = picked_tqs[i].job .. picked_ids[i] end
  if picked_n == 0 then return call('MGET', unpack(keys, 1, n)) end
  local texts, missing, at = picked_texts, {}, {}
  for i = 1, n do
    if not texts[i] then missing[#missing + 1], at[#at + 1] = keys[i], i end
  end
  if #missing == 0 then return texts end
  local more = call('MGET', unpack(missing))
  for i = 1, #at do texts[at[i]] = more[i] end
  return texts
end

local function add_picked(tq, id, text, task, key)
  picked_n = picked_n + 1
  picked_tqs[picked_n], picked_ids[picked_n], picked_texts[picked_n] = tq, id, text
  picked_tasks[picked_n], picked_keys[picked_n] = task, key
end

-- Delivers the picked jobs. What most of them are, ready for the first time and with all in one record, is spliced: their
-- records differ in few pieces, which are made once.
local function deliver_picked(n)
  if n == 0 then return end
  local texts = read_picked(n)
  local records, records_n = records, 0
  local prefix, its_worker = seed .. '-', pack('Bc0', #worker, worker)
  local listened = is_anybody_subscribed()
  for i = 1, n do
    local text, tq, id = texts[i], picked_tqs[i], picked_ids[i]
    local front, middle
    if text and #text >= 95 then
      local old = sub(text, 1, 46)
      front = fronts[old]
      if front == nil then
        front = front_of(old)
        fronts[old] = front
      end
      if front then
        old = sub(text, 54, 74)
        middle = middles[old]
        if middle == nil then
          middle = middle_of(old)
          middles[old] = middle
        end
      end
    end
    if middle then
      local member, number = tq.member .. id, NUMBERS[count]
      local delivered = front .. sub(text, 47, 53) .. middle .. CHARS[#prefix + #number] .. prefix .. number .. its_worker
        .. sub(text, 75)
      records[records_n + 1], records[records_n + 2], records_n = keys[i], delivered, records_n + 2
      if listened then add_event(member, RUNNING, text, 79) end
      hand_out(tq, member, delivered)
    elseif text then
      try(tq, id, text, picked_tasks[i], picked_keys[i])
    end
    tq.picked = 0
  end
  picked_texts, picked_tasks, picked_n = {}, {}, 0
  if records_n > 0 then call('MSET', unpack(records, 1, records_n)) end
end

-- A worker that claimed fewer jobs than it wanted waits for more, of its queues or (`*`) of all; one that got all is busy.
local function wait_or_work(names, is_busy)
  for i = 1, #names do
    local key = P .. 'idle:' .. names[i]
    if is_busy then
      call('ZREM', key, worker)
    elseif call('ZADD', key, now, worker) == 1 then
      -- A day later nobody waits for it.
      call('PEXPIRE', key, 86400000)
    end
  end
end

-- Names of a claim in order, each once; the same as a set; and where they end.
local function read_names(request, at, n)
  local list, set = {}, {}
  for _ = 1, n do
    local name
    name, at = unpack_struct('<Bc0', request, at)
    if not set[name] then list[#list + 1], set[name] = name, true end
  end
  return list, set, at
end

-- Hands out at most `max` jobs; whether there may be more for this claim that it did not look at.
local function hand_out_all(max)
  local budget, one_by_one = max + CLAIM_SCAN, nil
  while count < max and budget > 0 do
    local want, picked, missing = math.min(max - count, budget), 0, 0
    local alone = not one_by_one and turns.alone()
    if alone then
      if alone[1] and claims.limited.tenants[alone[1].tenant] then want = math.min(want, claims.limited.left) end
      picked = pick_of_one(alone, want)
      budget, missing = budget - picked, want - picked
      deliver_picked(picked)
    else
      one_by_one = one_by_one or {}
      budget, missing = claims.serve(worker, max - count, budget, one_by_one, add_picked)
      picked = picked_n
      deliver_picked(picked)
    end
    -- There were no more.
    if picked == 0 or missing > 0 then break end
  end
  return count < max and (budget == 0 or turns.is_cut_short())
end

-- Nobody need hear of jobs that are taken at once.
local function forget_handed_out()
  for _, tq in pairs(tenant_queues) do
    local ready = tq.handed_out and ready_in[tq.queue]
    if ready then ready_in[tq.queue] = ready > tq.handed_out and ready - tq.handed_out or nil end
    tq.handed_out = nil
  end
end

-- Takes a packed claim, see CLAIM and encode.rs, and appends to a list, per delivery: member, record, the spec (of a node: its
-- arguments) when it is kept apart, and of a node its template and its input or ''. Call flush_indexes() before it.
-- Complexity: O(n log N) for n jobs: all are read and written together, and a few calls per tenant queue that is served, and
--   per queue that is named; some 25 calls per job, block or move of a tenant queue that has sub-queues or controls.
function claims.claim(request, answer)
  local lease_ms, max, row, hears, asks_all, queues, at
  worker, seed, lease_ms, max, row, hears, asks_all, queues, at = unpack_struct(CLAIM, request)
  lease, count, out, out_n = string.format('%.0f', now + lease_ms), 0, answer, #answer
  picked_texts, picked_tasks, picked_keys, picked_n = {}, {}, {}, 0
  leases, looks, served, fronts, middles = { n = 0 }, { n = 0 }, { n = 0 }, {}, {}
  local names, set, after = read_names(request, at, queues)
  local left, count_limited, first = unpack_struct('<I4B', request, after)
  -- Tenants as a set, and how many more jobs of them this claim may take.
  claims.limited = { left = left, tenants = select(2, read_names(request, first, count_limited)) }
  asks_all = asks_all == 1
  turns.begin(not asks_all and names, set, row)
  local has_more = hand_out_all(max)
  if asks_all and turns.mend(count == 0) and count < max then has_more = hand_out_all(max) end
  forget_handed_out()
  local more_in = has_more and turns.ready_queue()
  if more_in then ready_in[more_in], opened_in[more_in] = (ready_in[more_in] or 0) + 1, true end
  if hears == 1 then
    local waits_for = {}
    -- A hint would be lost on one that does not serve its queue.
    if asks_all and #names == 0 then waits_for = { '*' } end
    for i = 1, asks_all and 0 or #names do
      if not claims.held_by_others[names[i]] then waits_for[#waits_for + 1] = names[i] end
    end
    wait_or_work(waits_for, count >= max)
  end
  claims.write_limits()
  in_pieces('HSET', P .. 'holders', served)
  in_pieces('ZADD', P .. 'leases', leases)
  in_pieces('ZREM', P .. 'look', looks)
end
