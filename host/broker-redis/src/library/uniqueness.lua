-- Unique keys, and the dead set.

-- ---- unique keys: `uniq:<tenant>,<key>` holds '<until, or 0> <id> <since>'

local function holder_of(tenant, key)
  local entry = call('GET', P .. 'uniq:' .. tenant .. ',' .. key)
  if not entry then return end
  local until_ms, id, since = string.match(entry, '^(%d+) (%S+) (%d+)$')
  return id, tonumber(until_ms), tonumber(since)
end

-- The job that keeps another with these options away.
unique.find_duplicate = function(tenant, options)
  if options.wins ~= 1 then return end
  local id, until_ms = holder_of(tenant, options.unique)
  if id and (until_ms == 0 or until_ms > now) then return id end
end

-- Gives a new job its unique key, and ends the one that it supersedes. Answers since when they supersede each other, whether
-- it superseded one, and the score of that one, if it was queued in the same queue with the same priority.
unique.supersede = function(tenant, id, options, failure, queue, priority)
  local since, took, name, score = now, false, tenant .. ',' .. options.unique, nil
  if options.wins == 2 then
    local holder, _, first = holder_of(tenant, options.unique)
    local member = holder and tenant .. ',' .. holder
    local r = holder and load(member)
    if r and (r[STATE] == SCHEDULED or r[STATE] == QUEUED or r[STATE] == RETRYING) then
      since, took = first, true
      -- Always at the end of a long queue, the latest of many would never run.
      if r[STATE] == QUEUED and r[PRIORITY] == priority and queue_in(r[FIXED]) == queue then score = r[SCORE] end
      -- It may have been stored by this very call.
      flush_indexes()
      r[FAILURE] = failure
      leave(member, r, tenant_queue_of(tenant, queue_in(r[FIXED])))
      finish(member, r, REVOKED)
      save(member, r)
      flush_indexes()
    end
  end
  local until_ms = 0
  if options.for_ms > 0 then until_ms = math.min(now + options.for_ms, MAX_MS) end
  call('SET', P .. 'uniq:' .. name, string.format('%.0f %s %.0f', until_ms, id, since))
  if until_ms > 0 then
    call('ZADD', P .. 'uniq_due', until_ms, name)
  else
    call('ZREM', P .. 'uniq_due', name)
  end
  return since, took, score
end

-- Until when a job holds its key (0: until it ends), and the key; nothing when it holds none.
local function held_until(member, flags)
  local options = sub_queues.options_of(member, flags)
  if not options or options.wins == 0 then return end
  local id, until_ms = holder_of(tenant_of(member), options.unique)
  if id == id_of(member) then return until_ms, tenant_of(member) .. ',' .. options.unique end
end

-- A job ended: it holds its key no more, or until the time that is answered. It is in no sub-queue.
unique.release = function(member, r)
  if r[FLAGS] >= IN_SUB_QUEUE then r[FLAGS] = r[FLAGS] - IN_SUB_QUEUE end
  local until_ms, key = held_until(member, r[FLAGS])
  if until_ms == 0 then call('DEL', P .. 'uniq:' .. key) end
  return until_ms or 0
end

-- A job is deleted before its time: nobody could look at what a duplicate is answered with.
unique.drop_key = function(member, r)
  local until_ms, key = held_until(member, r[FLAGS])
  if until_ms then
    call('DEL', P .. 'uniq:' .. key)
    call('ZREM', P .. 'uniq_due', key)
  end
end

-- ---- the dead set, and how many of each queue are in it

local function count_dead(tenant, queue, more)
  local deads = P .. 'deads:' .. tenant
  if call('HINCRBY', deads, queue, more) <= 0 then call('HDEL', deads, queue) end
end

-- Takes a job out of the dead set, if it is there. Its record may be given.
dead_set.leave = function(tenant, id, r)
  if call('ZREM', P .. 'dead:' .. tenant, id) == 0 then return end
  r = r or load(tenant .. ',' .. id)
  if r then count_dead(tenant, queue_in(r[FIXED]), -1) end
end

-- Into the dead set; the oldest leaves it when there are too many.
dead_set.add = function(member, r)
  local tenant, id = tenant_of(member), id_of(member)
  local dead = P .. 'dead:' .. tenant
  if call('ZADD', dead, 0, id) == 1 then
    local tq = tenant_queue_of(tenant, queue_in(r[FIXED]))
    count_dead(tenant, tq.queue, 1)
    tq.used = true
  end
  if call('ZCARD', dead) <= tonumber(max_dead) then return end
  local oldest = call('ZRANGE', dead, 0, 0)[1]
  local name = tenant .. ',' .. oldest
  local old = oldest == id and r or load(name)
  dead_set.leave(tenant, oldest, old)
  if old and not has(old[FLAGS], NODE) then
    -- Whoever holds a unique key still answers for it.
    local until_ms = math.max(old[FINISHED] + old[RESULT_TTL], held_until(name, old[FLAGS]) or 0)
    zadd(P .. 'retain', math.min(until_ms, MAX_MS), retained(name, old[FLAGS]))
  end
end
