-- Handing out jobs.

-- Worker, token seed, lease, max, whether it hears what is published for it, number of queues; their names follow.
local CLAIM = '<Bc0Bc0I6I4BI2'
-- When a set of idle workers is forgotten that nobody joined, milliseconds.
local IDLE_SET_MS = 86400000
-- Ready jobs that a claim looks at beyond those it returns; CLAIM_SCAN in the broker's contract.
local CLAIM_SCAN = 128

-- By bytes, as Redis sorts: '<' follows the server's locale.
local function before(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = byte(a, i), byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

-- At most `want` ready jobs of one tenant: it is alone, or only one job is wanted.
local function pick_of_one(queue, tenant, tag, want)
  local tq = tenant_queue_of(tenant, queue)
  local popped = call('ZPOPMIN', tq.ready, want)
  local n = #popped / 2
  if n < want or call('EXISTS', tq.ready) == 0 then
    call('ZREM', tq.fair, tenant)
    tq.active = false
  else
    call('ZADD', tq.fair, tag + n, tenant)
  end
  for i = 1, n do popped[i] = { tq, popped[2 * i - 1] } end
  for i = n + 1, 2 * n do popped[i] = nil end
  return popped
end

-- Start-time fair queueing among several tenants: level by level of their tags, by name inside a level. The k-th job
-- comes from one of the k tenants served least, so no more than `want` of them matter.
local function pick_of_many(queue, tenants, want)
  local sources = {}
  for i = 1, #tenants, 2 do
    sources[#sources + 1] = source_of(tenant_queue_of(tenants[i], queue), tonumber(tenants[i + 1]))
  end
  local share = math.ceil(want / #sources)
  local picked, n, fresh, level = {}, 0, 1, {}
  while n < want do
    if #level == 0 and not sources[fresh] then break end
    local tag = #level > 0 and level[1].tag or sources[fresh].tag
    local joined = false
    while sources[fresh] and sources[fresh].tag == tag do
      level[#level + 1] = sources[fresh]
      fresh, joined = fresh + 1, true
    end
    if joined then table.sort(level, function(a, b) return before(a.tq.tenant, b.tq.tenant) end) end
    local left = {}
    for _, source in ipairs(level) do
      if n == want then break end
      source.tag = source.tag + 1
      n = n + 1
      picked[n] = { source.tq, take(source, share) }
      if source.taken < source.size then left[#left + 1] = source end
    end
    level = left
  end
  for _, source in ipairs(sources) do
    if source.taken > 0 then
      take_out(source)
      if source.taken == source.size then
        call('ZREM', source.tq.fair, source.tq.tenant)
        source.tq.active = false
      else
        call('ZADD', source.tq.fair, source.tag, source.tq.tenant)
      end
    end
  end
  return picked
end

-- At most `want` jobs, or nothing if they must be picked one by one.
local function pick(queue, want)
  local tenants = call('ZRANGE', P .. 'fair:' .. queue, 0, want - 1, 'WITHSCORES')
  if #tenants == 0 then return tenants end
  for i = 1, #tenants, 2 do
    if is_special(tenant_queue_of(tenants[i], queue)) then return end
    -- None is.
    if not anything_special then break end
  end
  if #tenants == 2 then
    return pick_of_one(queue, tenants[1], tonumber(tenants[2]), want)
  end
  return pick_of_many(queue, tenants, want)
end

-- A worker that claimed fewer jobs than it wanted waits for more of its queues; one that got all is busy.
local function wait_or_work(worker, queues, is_busy)
  for i = 1, #queues do
    local key = P .. 'idle:' .. queues[i]
    if is_busy then
      call('ZREM', key, worker)
    elseif call('ZADD', key, now, worker) == 1 then
      call('PEXPIRE', key, IDLE_SET_MS)
    end
  end
end

-- Takes a packed claim, see CLAIM and encode.rs, and appends to a list, per delivery: member, record, the spec (of a node: its
-- arguments) when it is kept apart, and of a node its template and its input or ''. Call flush_indexes() before it.
-- Complexity: O(n log N) for n jobs: one GET and one SET per job, and a few calls per tenant that is served; while one of the
--   tenants has sub-queues or controls, two more per job, and some 25 per job, block or move of its own.
local function claim(request, out)
  local worker, seed, lease_ms, max, hears, queues, at = unpack_struct(CLAIM, request)
  local waits_for = {}
  local lease = string.format('%.0f', now + lease_ms)
  local count, n, budget = 0, #out, max + CLAIM_SCAN
  local leases, looks, served = { n = 0 }, { n = 0 }, { n = 0 }

  local function deliver(tq, id, text)
    local member = tq.tenant .. ',' .. id
    local key = P .. 'job:' .. member
    text = text or call('GET', key)
    if not text or not is_readable(text) then return end
    local _, _, flags, priority, retries, deliveries, max_deliveries, created, expires, _, _, _, score, fence, result_ttl,
      dead_ttl, _, _, rest = unpack_struct(HEAD, text)
    if expires > 0 and expires <= now then
      local r = opened(text)
      finish(member, r, EXPIRED)
      save(member, r)
      return
    end
    if expires > 0 then
      looks.n = looks.n + 1
      looks[looks.n] = member
    end
    local token = seed .. '-' .. count
    local stored = text
    text = pack(HEAD, 1, RUNNING, flags, priority, retries, deliveries + 1, max_deliveries, created, expires, 0, now, 0,
      score, math.max(now * 1000, fence + 1), result_ttl, dead_ttl, #token, token, #worker, worker) .. sub(text, rest)
    -- Before it runs: whatever fails from here on, the lease brings it back.
    local l = leases.n
    leases[l + 1], leases[l + 2], leases.n = lease, member, l + 2
    call('SET', key, text)
    add_event(member, RUNNING, stored, rest + 4)
    count = count + 1
    tq.running = tq.running + 1
    if flags >= IN_SUB_QUEUE then sub_queues.count_started(member, text) end
    if not tq.holder then
      tq.holder, served[served.n + 1], served[served.n + 2], served.n = worker, tq.name, worker, served.n + 2
    end
    out[n + 1], out[n + 2], n = member, text, n + 2
    if has(flags, SPEC_APART) then
      n = n + 1
      out[n] = call('GET', P .. 'spec:' .. member) or ''
    end
    if has(flags, NODE) then
      out[n + 1], out[n + 2] = workflows.delivered(member, stored, rest + 4)
      n = n + 2
    end
  end

  -- A job with something damaged must not take the others of this claim with it.
  local function try(tq, id, text)
    local before = n
    if pcall(deliver, tq, id, text) then return end
    for i = #out, before + 1, -1 do out[i] = nil end
    n = before
  end

  for _ = 1, queues do
    local queue
    queue, at = unpack_struct('<Bc0', request, at)
    local before = count
    while count < max and budget > 0 do
      local picked = pick(queue, math.min(max - count, budget))
      if not picked then
        budget = serve(queue, worker, max - count, budget, function(tq, id, text)
          try(tq, id, text)
          return count < max
        end)
        break
      end
      if #picked == 0 then break end
      budget = budget - #picked
      for i = 1, #picked do try(picked[i][1], picked[i][2]) end
    end
    if not held_by_others[queue] then waits_for[#waits_for + 1] = queue end
    -- Nobody need hear of jobs that are taken at once.
    local left = (ready_in[queue] or 0) - (count - before)
    ready_in[queue] = left > 0 and left or nil
    if budget == 0 and count < max and call('EXISTS', P .. 'fair:' .. queue) == 1 then
      ready_in[queue], opened_in[queue] = (ready_in[queue] or 0) + 1, true
    end
  end
  if hears == 1 then wait_or_work(worker, waits_for, count >= max) end
  in_pieces('HSET', P .. 'holders', served)
  in_pieces('ZADD', P .. 'leases', leases)
  in_pieces('ZREM', P .. 'look', looks)
end
