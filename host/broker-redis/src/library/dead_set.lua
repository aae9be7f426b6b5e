-- The dead set of a tenant: failed jobs that are kept to be looked at and redriven. `dead:<tenant>` has their ids,
-- `deads:<tenant>` how many each queue has there.

local function count_dead(tenant, queue, more)
  local deads = P .. 'deads:' .. tenant
  if call('HINCRBY', deads, queue, more) <= 0 then call('HDEL', deads, queue) end
end

-- Takes a job out of the dead set, if it is there. Its record may be given.
function dead_set.leave(tenant, id, r)
  if call('ZREM', P .. 'dead:' .. tenant, id) == 0 then return end
  r = r or load(tenant .. ',' .. id)
  if r then count_dead(tenant, queue_in(r[FIXED]), -1) end
end

-- Into the dead set; the oldest leaves it when there are too many.
function dead_set.add(member, r)
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
    local until_ms = math.max(old[FINISHED] + old[RESULT_TTL], unique.held_until(name, old[FLAGS]) or 0)
    zadd(P .. 'retain', math.min(until_ms, MAX_MS), retained(name, old[FLAGS]))
  end
end
