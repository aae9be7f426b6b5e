-- Controls: what holds for a tenant, a queue or a task while the service runs.

-- Changes what holds for a tenant, a queue or a task, and opens what was blocked of it.
-- Also when Redis is full: that is when somebody wants to stop a queue.
-- ARGV[2] tenant   ARGV[3] 't', 'q:<queue>' or 'k:<task>'   ARGV[4] paused, ARGV[5] exclusive: '1', '0' or '' to keep it
-- ARGV[6] rate: count, period and burst with spaces between, '-' for none, or '' to keep it   ARGV[7] concurrency, or '' to
--   keep it   ARGV[8] tasks of a tenant that may have one   ARGV[9] queues that a tenant may have
-- Returns 'U' for a queue that is not known and nothing is set for, 'Q' when it would be one too many, 'F' when too many tasks have one, or 'S' and the packed control.
-- Complexity: O(queues of the tenant).
register('control', 'allow-oom', function(args)
  local tenant, scope = args[2], args[3]
  local kind, name = sub(scope, 1, 1), sub(scope, 3)
  local queues, key = P .. 'queues:' .. tenant, P .. 'control:' .. tenant
  if kind == 'q' and call('HEXISTS', queues, name .. ':p') == 0 then
    -- A queue may be paused and limited before its first job.
    local sets = args[4] == '1' or args[5] == '1' or (args[6] ~= '' and args[6] ~= '-') or (tonumber(args[7]) or 0) > 0
    if not sets then return 'U' end
    if call('HLEN', queues) / 3 >= tonumber(args[9]) then return 'Q' end
    make_queue(tenant_queue_of(tenant, name))
  end
  local stored = call('HGET', key, scope)
  local control = stored and limits.opened_control(stored) or { concurrency = 0 }
  -- Also a queue without another control may be paused, so that is kept with its counts.
  if kind == 'q' then control.paused = call('HGET', queues, name .. ':p') == '1' end

  local function chosen(text, old)
    if text == '' then return old end
    return text == '1'
  end
  control.paused, control.exclusive = chosen(args[4], control.paused), chosen(args[5], control.exclusive)
  if args[6] == '-' then
    control.rate = nil
  elseif args[6] ~= '' then
    local count, period, burst = string.match(args[6], '^(%d+) (%d+) (%d+)$')
    control.rate = { tonumber(count), tonumber(period), tonumber(burst) }
  end
  if args[7] ~= '' then control.concurrency = tonumber(args[7]) end

  -- Whether as many tasks have one as may. They are counted only when there could be so many.
  local function is_full(most)
    if call('HLEN', key) < most then return false end
    local count = 0
    for _, field in ipairs(call('HKEYS', key)) do
      if sub(field, 1, 2) == 'k:' then count = count + 1 end
    end
    return count >= most
  end
  local says_more = control.exclusive or control.rate or control.concurrency > 0
  if says_more or (control.paused and kind ~= 'q') then
    if kind == 'k' and not stored and is_full(tonumber(args[8])) then return 'F' end
    call('HSET', key, scope, limits.packed_control(control))
    call('HSET', P .. 'special', tenant, 1)
  elseif stored then
    call('HDEL', key, scope)
    if call('EXISTS', key) == 0 then call('HDEL', P .. 'special', tenant) end
  end
  if kind == 'q' then call('HSET', queues, name .. ':p', control.paused and '1' or '0') end

  local function open(queue)
    local tq = tenant_queue_of(tenant, queue)
    if kind == 'k' then return limits.unblock(tq, nil, name) end
    limits.unblock(tq)
    limits.settle_and_notify(tq)
  end
  if kind == 'q' then
    tenant_queue_of(tenant, name).used = true
    open(name)
  else
    local names = {}
    for _, field in ipairs(call('HKEYS', queues)) do
      if sub(field, -2) == ':p' then names[#names + 1] = sub(field, 1, -3) end
    end
    -- What opens first is served first.
    table.sort(names, turns.before)
    for _, queue in ipairs(names) do open(queue) end
  end
  flush()
  notify()
  return 'S' .. limits.packed_control(control)
end)

-- Sets what a tenant may store.
-- ARGV[2] tenant   ARGV[3] bytes of jobs, ARGV[4] of documents, ARGV[5] of key-value entries, ARGV[6] of blobs; 0: as much as each
-- Complexity: O(1).
register('limit_storage', 'allow-oom', function(args)
  local name = ';' .. args[2]
  local key = P .. 'control:' .. name
  if args[3] == '0' and args[4] == '0' and args[5] == '0' and args[6] == '0' then
    call('UNLINK', key)
    call('HDEL', P .. 'special', name)
  else
    call('HSET', key, 'j', args[3], 'd', args[4], 'k', args[5], 'b', args[6])
    call('HSET', P .. 'special', name, 1)
  end
end)

-- What was set of a tenant.
-- ARGV[2] tenant
-- Returns scope and packed control, one after the other, in no order; then the paused queues, each as 'p:<queue>' and ''.
-- Complexity: O(queues and controls of the tenant).
register('controls', 'no-writes', function(args)
  local out = call('HGETALL', P .. 'control:' .. args[2])
  local fields = call('HGETALL', P .. 'queues:' .. args[2])
  for i = 1, #fields, 2 do
    if sub(fields[i], -2) == ':p' and fields[i + 1] == '1' then
      out[#out + 1], out[#out + 2] = 'p:' .. sub(fields[i], 1, -3), ''
    end
  end
  return out
end)
