-- Put behind audit_sets.lua: hashes and counts, which an audit compares with what there is.

-- ---- hashes and counts

local function look_at_hashes()
  for _, hash in ipairs({ 'workers', 'orders' }) do
    for _, id in ipairs(call('HKEYS', P .. hash)) do
      if not is_in('workers_seen', id) then
        found('worker that is never forgotten', id, function() call('HDEL', P .. hash, id) end)
      end
    end
  end
  local followed = exists('followed', '')
  for _, name in ipairs(call('HKEYS', P .. 'special')) do
    if not (name == ',' and followed) and not exists('control:', name) and not exists('line:', name) then
      found('limits of nothing', name, function() call('HDEL', P .. 'special', name) end)
    end
  end
  if followed and call('HEXISTS', P .. 'special', ',') == 0 then
    found('followers that nobody looks for', '', function() call('HSET', P .. 'special', ',', 1) end)
  end
end

-- Both are the numbers by name, of what there is and of what was counted.
local function compare(check, real, counted, set)
  local names = {}
  for name in pairs(real) do names[name] = true end
  for name in pairs(counted) do names[name] = true end
  for name in pairs(names) do
    local is, said = real[name] or 0, counted[name] or 0
    if is ~= said then found(check, name, function() set(name, is) end) end
  end
end

local function numbers_in(hash, suffix)
  local fields, numbers = call('HGETALL', P .. hash), {}
  for i = 1, #fields, 2 do
    if suffix == '' or sub(fields[i], -#suffix) == suffix then
      numbers[sub(fields[i], 1, -1 - #suffix)] = tonumber(fields[i + 1])
    end
  end
  return numbers
end

local function add(counts, name)
  counts[name] = (counts[name] or 0) + 1
end

-- The counts of these tenants, and of all limits, if there is not too much to count at once.
local function look_at_counts(most, first)
  if call('ZCARD', P .. 'leases') + call('ZCARD', P .. 'look') > most then return end
  local running, delayed, used = {}, {}, {}
  for _, member in ipairs(call('ZRANGE', P .. 'leases', 0, -1)) do
    local r = load(member)
    if r and r[STATE] == RUNNING then
      local tenant = tenant_of(member)
      running[tenant] = running[tenant] or {}
      add(running[tenant], queue_in(r[FIXED]))
      if r[FLAGS] >= LANED then
        local task, key = m.lane_of(member, r)
        add(used, m.named(tenant, task))
        if key ~= '' then add(used, m.named(tenant, task, key)) end
      end
    end
  end
  for _, member in ipairs(call('ZRANGE', P .. 'look', 0, -1)) do
    local r = load(member)
    if r and is_delayed(r) then
      local tenant = tenant_of(member)
      delayed[tenant] = delayed[tenant] or {}
      add(delayed[tenant], queue_in(r[FIXED]))
    end
  end
  for i = first, #ARGV do
    local tenant, queues = ARGV[i], 'queues:' .. ARGV[i]
    compare('running jobs of a line', running[tenant] or {}, numbers_in(queues, ':r'), function(queue, is)
      call('HSET', P .. queues, queue .. ':r', is)
      m.unpark(line_of(tenant, queue), m.BY_QUEUE)
      m.unblock(m.BY_TENANT, tenant)
    end)
    compare('delayed jobs of a line', delayed[tenant] or {}, numbers_in(queues, ':d'), function(queue, is)
      call('HSET', P .. queues, queue .. ':d', is)
    end)
  end
  compare('jobs that count as running for a limit', used, numbers_in('used', ''), function(name, is)
    if is == 0 then call('HDEL', P .. 'used', name) else call('HSET', P .. 'used', name, is) end
    local tenant, task, key = string.match(name, '^([^,]*),([^,]*),?([^,]*)$')
    if key == '' then m.unblock(m.BY_TASK, tenant, task) else m.unblock(m.BY_KEY, tenant, task, key) end
  end)
end

-- The number of dead jobs of a tenant's queues; also when a store of an older release is taken over.
local function look_at_dead(tenant)
  local dead = {}
  for _, id in ipairs(call('ZRANGE', P .. 'dead:' .. tenant, 0, -1)) do
    local r = load(tenant .. ',' .. id)
    if r then add(dead, queue_in(r[FIXED])) end
  end
  compare('dead jobs of a line', dead, numbers_in('deads:' .. tenant, ''), function(queue, is)
    if is == 0 then call('HDEL', P .. 'deads:' .. tenant, queue) else call('HSET', P .. 'deads:' .. tenant, queue, is) end
  end)
end

-- The lanes of a line: every key lane with jobs is open or parked, and counted. Those that were seen (task, ',', key) are
-- looked at, too.
local function look_at_lanes(name, first)
  local line, seen, fields = line_in(name), {}, call('HGETALL', P .. 'line:' .. name)
  local hash = m.hash_of(line)
  for i = first, #ARGV do seen[ARGV[i]] = true end
  for i = 1, #fields, 2 do
    local task = string.match(fields[i], '^n:(.*)$')
    local parked = string.match(fields[i], '^k:([^,]*,.*)$')
    if parked then seen[parked] = true end
    if task then
      for _, key in ipairs(call('ZRANGE', P .. 'keys:' .. m.named(name, task), 0, -1)) do seen[m.named(task, key)] = true end
    end
  end
  local jobs, lanes, tasks, real = 0, 0, {}, {}
  for lane in pairs(seen) do
    local task, key = string.match(lane, '^([^,]*),(.*)$')
    local size = call('ZCARD', P .. 'lane:' .. name .. ',' .. lane)
    local open = call('ZSCORE', P .. 'keys:' .. m.named(name, task), key)
    if size > 0 then
      jobs = jobs + size
      if not tasks[task] then lanes = lanes + 1 end
      tasks[task] = true
      add(real, 'n:' .. task)
      if not open and call('HEXISTS', hash, m.park_field(task, key)) == 0 then
        found('ready jobs that nobody is given', m.named(name, task, key), function() m.settle_key(line, task, key) end)
      end
    elseif open then
      found('turn of a key without jobs', m.named(name, task, key), removes('keys:' .. m.named(name, task), key))
    end
  end
  if jobs > 0 then real.q, real.n = jobs, lanes end
  local counted = {}
  for i = 1, #fields, 2 do
    if fields[i] == 'q' or fields[i] == 'n' or sub(fields[i], 1, 2) == 'n:' then counted[fields[i]] = tonumber(fields[i + 1]) end
  end
  compare('queued jobs of a line', real, counted, function(field, is)
    if is == 0 then call('HDEL', hash, field) else call('HSET', hash, field, is) end
    m.settle_line(line)
  end)
end
