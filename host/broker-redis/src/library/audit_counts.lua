-- Audits: hashes and counts, which are compared with what there is.

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
local function look_at_counts(args)
  if call('ZCARD', P .. 'leases') + call('ZCARD', P .. 'look') > tonumber(args[4]) then return end
  local running, delayed, used = {}, {}, {}
  for _, member in ipairs(call('ZRANGE', P .. 'leases', 0, -1)) do
    local r = load(member)
    if r and r[STATE] == RUNNING then
      local tenant = tenant_of(member)
      running[tenant] = running[tenant] or {}
      add(running[tenant], queue_in(r[FIXED]))
      if r[FLAGS] >= IN_SUB_QUEUE then
        local task, key = limits.sub_queue_of(member, r)
        add(used, named(tenant, task))
        if key ~= '' then add(used, named(tenant, task, key)) end
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
  for i = 5, #args do
    local tenant, queues = args[i], 'queues:' .. args[i]
    compare('running jobs of a line', running[tenant] or {}, numbers_in(queues, ':r'), function(queue, is)
      call('HSET', P .. queues, queue .. ':r', is)
      limits.unblock(tenant_queue_of(tenant, queue), limits.BY_QUEUE)
      limits.unblock_all(limits.BY_TENANT, tenant)
    end)
    compare('delayed jobs of a line', delayed[tenant] or {}, numbers_in(queues, ':d'), function(queue, is)
      call('HSET', P .. queues, queue .. ':d', is)
    end)
  end
  compare('jobs that count as running for a limit', used, numbers_in('used', ''), function(name, is)
    if is == 0 then call('HDEL', P .. 'used', name) else call('HSET', P .. 'used', name, is) end
    local tenant, task, key = string.match(name, '^([^,]*),([^,]*),?([^,]*)$')
    if key == '' then
      limits.unblock_all(limits.BY_TASK, tenant, task)
    else
      limits.unblock_all(limits.BY_KEY, tenant, task, key)
    end
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

-- The sub-queues of a tenant queue: every key with jobs is open or blocked, and counted. Those that were seen (task, ',', key)
-- are looked at, too.
local function look_at_sub_queues(args)
  local name = args[4]
  local tq, seen, fields = tenant_queue_in(name), {}, call('HGETALL', P .. 'line:' .. name)
  local hash = limits.hash_of(tq)
  for i = 5, #args do seen[args[i]] = true end
  for i = 1, #fields, 2 do
    local task = string.match(fields[i], '^n:(.*)$')
    local is_blocked = string.match(fields[i], '^k:([^,]*,.*)$')
    if is_blocked then seen[is_blocked] = true end
    if task then
      for _, key in ipairs(call('ZRANGE', P .. 'keys:' .. named(name, task), 0, -1)) do
        seen[named(task, key)] = true
      end
    end
  end
  local jobs, count, tasks, real = 0, 0, {}, {}
  for sub_queue in pairs(seen) do
    local task, key = string.match(sub_queue, '^([^,]*),(.*)$')
    local size = call('ZCARD', P .. 'lane:' .. name .. ',' .. sub_queue)
    local open = call('ZSCORE', P .. 'keys:' .. named(name, task), key)
    if size > 0 then
      jobs = jobs + size
      if not tasks[task] then count = count + 1 end
      tasks[task] = true
      add(real, 'n:' .. task)
      if not open and call('HEXISTS', hash, limits.block_field(task, key)) == 0 then
        found('ready jobs that nobody is given', named(name, task, key), function()
          limits.settle_key(tq, task, key)
        end)
      end
    elseif open then
      found('turn of a key without jobs', named(name, task, key), removes('keys:' .. named(name, task), key))
    end
  end
  if jobs > 0 then real.q, real.n = jobs, count end
  local counted = {}
  for i = 1, #fields, 2 do
    local field = fields[i]
    if field == 'q' or field == 'n' or sub(field, 1, 2) == 'n:' then counted[field] = tonumber(fields[i + 1]) end
  end
  compare('queued jobs of a line', real, counted, function(field, is)
    if is == 0 then call('HDEL', hash, field) else call('HSET', hash, field, is) end
    limits.settle_tenant_queue(tq)
  end)
end

-- ---- the call

local sets_and_counts = {
  set = function(args) look_at_set(args[4], args[5], tonumber(args[6]), tonumber(args[7])) end,
  hashes = look_at_hashes,
  -- A piece of the labels of a tenant's jobs, from a cursor on.
  labels = function(args)
    local tenant, cursor, count = args[4], args[5], tonumber(args[6])
    local key = 'meta:labels:' .. tenant
    local scanned = call('HSCAN', P .. key, cursor, 'COUNT', count)
    local fields = scanned[2]
    for i = 1, #fields, 2 do
      local id, hashes = fields[i], fields[i + 1]
      if not exists('job:', tenant .. ',' .. id) then
        found('labels of a job that is gone', tenant .. ',' .. id, function() labels.drop(tenant, id) end)
      else
        labels.each(tenant, hashes, function(index)
          if not call('ZSCORE', index, id) then
            found('job that is not found by its label', tenant .. ',' .. id, function() call('ZADD', index, 0, id) end)
          end
        end)
      end
    end
    if scanned[1] ~= '0' then out[1] = tonumber(scanned[1]) end
  end,
  -- References of a tenant's jobs to blobs, from a cursor on.
  blob_refs = function(args)
    local tenant = args[4]
    local cursor = blobs.each_job(tenant, args[5], tonumber(args[6]), function(id)
      local member = tenant .. ',' .. id
      if not exists('job:', member) then
        found('references of a job that is gone', member, function() blobs.release(member) end)
      end
    end)
    if cursor ~= '0' then out[1] = tonumber(cursor) end
  end,
  -- The records of a tenant's blobs, if there are not too many to count at once.
  blobs = function(args)
    blobs.compare(args[4], tonumber(args[5]), function(digest, mend)
      found('references of a blob', args[4] .. ',' .. digest, mend)
    end)
  end,
  counts = look_at_counts,
  dead = function(args) look_at_dead(args[4]) end,
  lanes = look_at_sub_queues,
}

-- Of the wrong type, say, or with an entry that is not as they are written.
local function try(name, look_at, args)
  if not pcall(look_at, args) then found('keys that cannot be read', name) end
end

-- Looks at keys, or at a piece of a set, for what should not be. A call sees nothing half done, so that work that goes on is
-- never taken for an error.
-- ARGV[2] '1' to mend   ARGV[3] what to look at, see the tables   ARGV[4…] names of keys behind their kind, or a name, where
--   to begin and how many to look at
-- Returns { where to go on, or -1; check, example, '1' if it was mended; … }.
-- Complexity: O(n log N) for n keys or entries; counts look at all leases and delays.
register('audit', 'allow-oom', function(args)
  local what = args[3]
  fix, out = args[2] == '1', { -1 }
  if kinds[what] then
    local names = { unpack(args, 4) }
    if what == 'job' then names = doubtful_jobs(names) end
    for _, name in ipairs(names) do try(what .. ':' .. name, kinds[what], name) end
  else
    try(what .. ' ' .. (args[4] or ''), sets_and_counts[what], args)
  end
  flush()
  notify()
  return out
end)
