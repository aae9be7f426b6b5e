-- What follows from the passage of time: `promote` and `reap`.

-- When a promotion finds the next one due; -1 when nothing waits.
local next_due

local function due_at(at)
  if next_due < 0 or at < next_due then next_due = at end
end

-- What is due of a sorted set, at most `max`.
local function due_in(key, max)
  local first = tonumber(call('ZRANGE', key, 0, 0, 'WITHSCORES')[2])
  local due = {}
  if first and first <= now then
    due = call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, max)
    first = tonumber(call('ZRANGE', key, #due, #due, 'WITHSCORES')[2])
  end
  if first then due_at(first) end
  return due
end

-- Opens what a rate had blocked, queues what is due and ends what expired; cancels workflows at their deadline; goes on with
-- the work items.
-- ARGV[2] max
-- Returns { moved, expired, opened, next_due }; next_due is -1 when nothing waits.
-- Complexity: O(m log N) for m jobs and workflows looked at, and that of work.advance().
register('promote', 'allow-oom', function(args)
  local max = tonumber(args[2])
  local moved, expired, opened = 0, 0, 0
  next_due = -1
  local late, waiting = due_in(P .. 'deadlines', max), due_in(P .. 'look', max)
  if call('EXISTS', P .. 'parked') == 1 then
    local opens
    opened, opens = limits.open_rates(max)
    if opens then due_at(opens) end
  end
  local replacements = call('ZRANGEBYSCORE', P .. 'meta:adopt', '-inf', now, 'LIMIT', 0, max)
  for _, prefix in ipairs(replacements) do work.look_at_replacement(prefix) end
  for _, member in ipairs(late) do workflows.give_up(sub(member, 1, -7), EXPIRED) end
  for _, member in ipairs(waiting) do
    local r = load(member)
    if r then
      local tq = tenant_queue_of(tenant_of(member), queue_in(r[FIXED]))
      leave(member, r, tq)
      if r[EXPIRES] > 0 and r[EXPIRES] <= now then
        finish(member, r, EXPIRED)
        expired = expired + 1
      else
        r[SCORE] = new_score(r[PRIORITY])
        enqueue(member, r, tq)
        moved = moved + 1
      end
      save(member, r)
    else
      zrem(P .. 'look', member)
    end
  end
  work.advance()
  flush()
  if call('EXISTS', P .. 'todo') == 1 then due_at(now) end
  notify()
  return { moved, expired, opened, next_due }
end)

-- Notes a reaping; whether it may take leases back, as the rules of the broker say. `meta:reaping_v1` is '<time of the last one>
-- <nothing is taken back before>'.
local function may_reap(outage, grace)
  local key = P .. 'meta:reaping_v1'
  local last, from = string.match(call('GET', key) or '', '^(%d+) (%d+)$')
  last, from = tonumber(last) or now, tonumber(from) or 0
  if now - last > outage then from = now + grace end
  -- The clock may have been set back.
  from = math.min(from, now + grace)
  call('SET', key, string.format('%.0f %.0f', now, from))
  return now >= from
end

-- Takes back expired leases, unless the store was away.
-- ARGV[2] max   ARGV[3] failure of a job that has no delivery left, JSON text   ARGV[4] what stands in it for their number
-- ARGV[5] failure of a job that may run only once, JSON text   ARGV[6] time between two calls that is an outage
-- ARGV[7] nothing is taken back for so long after it; milliseconds   ARGV[8] tasks of an hour with sums of their own
-- Returns { requeued, buried, revoked, failed }.
-- Complexity: O(m log N) for m leases taken back.
register('reap', 'allow-oom', function(args)
  usage.limit(args[8])
  local max = may_reap(tonumber(args[6]), tonumber(args[7])) and tonumber(args[2]) or 0
  local lost = call('ZRANGEBYSCORE', P .. 'leases', '-inf', now, 'LIMIT', 0, max)
  local requeued, buried, revoked, failed = 0, 0, 0, 0
  local DEAD, FAIL = 1, 2

  for _, member in ipairs(lost) do
    local r = load(member)
    if r then
      local tq = tenant_queue_of(tenant_of(member), queue_in(r[FIXED]))
      local options = r[FLAGS] >= HAS_OPTIONS and limits.options_of(member, r[FLAGS])
      local on_lost = options and options.on_lost
      leave(member, r, tq)
      r[TOKEN] = ''
      -- As encode.rs writes an attempt; a worker's name needs no escapes.
      local entry = string.format('[%.0f,%.0f,"%s",%.0f,"lost",0,0,0,null]', r[RETRIES] + 1, r[DELIVERIES], r[WORKER], now)
      remember(member, r, entry, '')
      usage.lost(tq.tenant, usage.task_in(r[FIXED]))
      if has(r[FLAGS], CANCEL) then
        finish(member, r, REVOKED)
        revoked = revoked + 1
      elseif on_lost == DEAD or on_lost == FAIL then
        r[FAILURE] = args[5]
        finish(member, r, FAILED, on_lost == DEAD)
        if on_lost == DEAD then buried = buried + 1 else failed = failed + 1 end
      elseif r[DELIVERIES] >= r[MAX_DELIVERIES] then
        r[FAILURE] = string.gsub(args[3], args[4], string.format('%.0f', r[DELIVERIES]))
        finish(member, r, FAILED)
        buried = buried + 1
      else
        -- Lost again, it goes to the end: it must not meet the same others in front of the queue for ever.
        if r[DELIVERIES] >= 2 then r[SCORE] = new_score(r[PRIORITY]) end
        enqueue(member, r, tq)
        requeued = requeued + 1
      end
      save(member, r)
    else
      zrem(P .. 'leases', member)
    end
  end
  work.advance()
  flush()
  notify()
  return { requeued, buried, revoked, failed }
end)
