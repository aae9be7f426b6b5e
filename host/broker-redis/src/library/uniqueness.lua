-- Unique keys: `uniq:<tenant>,<key>` holds '<until, or 0> <id> <since>'

local function holder_of(tenant, key)
  local entry = call('GET', P .. 'uniq:' .. tenant .. ',' .. key)
  if not entry then return end
  local until_ms, id, since = string.match(entry, '^(%d+) (%S+) (%d+)$')
  return id, tonumber(until_ms), tonumber(since)
end

-- The job that keeps another with these options away.
function unique.find_duplicate(tenant, options)
  if options.wins ~= 1 then return end
  local id, until_ms = holder_of(tenant, options.unique)
  if id and (until_ms == 0 or until_ms > now) then return id end
end

-- Gives a new job its unique key, and ends the one that it supersedes. Answers since when they supersede each other, whether
-- it superseded one, and the score of that one, if it was queued in the same queue with the same priority.
function unique.supersede(tenant, id, options, failure, queue, priority)
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
    elseif r and r[STATE] == RUNNING and not has(r[FLAGS], CANCEL) then
      -- It may end, and is never run again.
      r[FLAGS], r[FAILURE] = r[FLAGS] + CANCEL + LET_END, failure
      save(member, r)
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
function unique.held_until(member, flags)
  local options = limits.options_of(member, flags)
  if not options or options.wins == 0 then return end
  local id, until_ms = holder_of(tenant_of(member), options.unique)
  if id == id_of(member) then return until_ms, tenant_of(member) .. ',' .. options.unique end
end

-- A job ended: it holds its key no more, or until the time that is answered. It is in no sub-queue.
function unique.release(member, r)
  if r[FLAGS] >= IN_SUB_QUEUE then r[FLAGS] = r[FLAGS] - IN_SUB_QUEUE end
  local until_ms, key = unique.held_until(member, r[FLAGS])
  if until_ms == 0 then call('DEL', P .. 'uniq:' .. key) end
  return until_ms or 0
end

-- A job is deleted before its time: nobody could look at what a duplicate is answered with.
function unique.drop_key(member, r)
  local until_ms, key = unique.held_until(member, r[FLAGS])
  if until_ms then
    call('DEL', P .. 'uniq:' .. key)
    call('ZREM', P .. 'uniq_due', key)
  end
end
