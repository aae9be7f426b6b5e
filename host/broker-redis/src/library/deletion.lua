-- Deletion of jobs and workflows: `prune`, `forget` and `forget_workflow`.

-- The child of a deleted job is deleted next, or when it is over: the job may have been cancelled before.
local function orphan(member)
  local r = load(member)
  local wf = r and workflows.at(workflows.child_of(member, r))
  if not wf then return end
  wf.orphaned, wf.dirty = 1, true
  -- At once: it may be deleted by this very call.
  if wf.finished > 0 then call('ZADD', P .. 'retain', now, wf.prefix .. '000000w') end
end

function deletion.unlink(member)
  storage.give_back(member)
  blobs.release(member)
  call('UNLINK', P .. 'job:' .. member, P .. 'spec:' .. member, P .. 'history:' .. member, P .. 'log:' .. member,
    P .. 'more:' .. member)
end

-- Whether a tenant has dead jobs.
local have_dead

resets[#resets + 1] = function() have_dead = {} end

-- Deletes a job that is no node, by its name in `retain`.
local function prune_job(name, member)
  if name ~= member then orphan(member) end
  local tenant, id = tenant_of(member), id_of(member)
  if have_dead[tenant] == nil then have_dead[tenant] = call('EXISTS', P .. 'dead:' .. tenant) == 1 end
  if have_dead[tenant] then dead_set.leave(tenant, id) end
  labels.drop(tenant, id)
  deletion.unlink(member)
  zrem(P .. 'retain', name)
  zrem(P .. 'jobs:' .. tenant, id)
end

local function prune_node(wf, number)
  local member = workflows.node_of(wf, number)
  local head = call('GETRANGE', P .. 'job:' .. member, 0, 2)
  if #head == 0 then
    call('UNLINK', P .. 'gate:' .. member)
    return
  end
  local state, flags = byte(head, STATE), byte(head, FLAGS)
  if has(flags, REPLACED) then orphan(member) end
  if not is_over(state) then
    -- An error callback of a staged node that was cancelled may be queued.
    local r = load(member)
    if state == QUEUED or state == SCHEDULED or state == RETRYING then zrem(P .. 'look', member) end
    leave(member, r, tenant_queue_of(wf.tenant, queue_in(r[FIXED])))
  end
  if state == FAILED then dead_set.leave(wf.tenant, id_of(member)) end
  deletion.unlink(member)
end

-- Lists of logs and histories are read to be given back. So much of it ends a step: some milliseconds, see storage.work_done().
local MOST_WORK = 1000

-- Deletes at most `most` of a workflow's nodes and then itself; how many.
local function prune_workflow(name, most)
  local member = sub(name, 1, -2)
  local wf = workflows.of(member)
  if not wf then
    zrem(P .. 'retain', name)
    return 1
  end
  if wf.pruned == 0 then zrem(P .. 'workflows:' .. wf.tenant, wf.id) end
  local first, count = wf.pruned, math.min(most, wf.nodes - wf.pruned)
  for number = wf.pruned, wf.pruned + count - 1 do
    prune_node(wf, number)
    wf.pruned, wf.dirty = number + 1, true
    if storage.work_done(0) > MOST_WORK then return number - first + 1 end
  end
  if count == most then return count end
  if call('HINCRBY', P .. 'wf_nodes', wf.tenant, 0 - wf.nodes) <= 0 then call('HDEL', P .. 'wf_nodes', wf.tenant) end
  storage.add(wf.tenant, 0 - (call('HGET', P .. 'wft:' .. member, 'b') or 0))
  call('UNLINK', P .. 'wf:' .. member, P .. 'wft:' .. member)
  zrem(P .. 'retain', name)
  zrem(P .. 'deadlines', member)
  workflows.forget(wf)
  return count + 1
end

-- A queue into which no job came for so long, milliseconds, is forgotten; QUEUE_IDLE_MS in the broker's contract.
local QUEUE_IDLE_MS = 86400000

-- Whether a queue has no jobs but those that ended, none of them dead, and no control.
local function is_queue_empty(tq)
  local counts = call('HMGET', P .. 'queues:' .. tq.tenant, tq.queue .. ':r', tq.queue .. ':d', tq.queue .. ':p')
  return tonumber(counts[1] or 0) <= 0 and tonumber(counts[2] or 0) <= 0 and counts[3] ~= '1'
    and call('EXISTS', tq.ready, P .. 'line:' .. tq.name) == 0 and call('HEXISTS', P .. 'deads:' .. tq.tenant, tq.queue) == 0
    and call('HEXISTS', P .. 'control:' .. tq.tenant, 'q:' .. tq.queue) == 0
end

local function forget_queue(tq)
  call('HDEL', P .. 'queues:' .. tq.tenant, tq.queue .. ':r', tq.queue .. ':d', tq.queue .. ':p')
  call('HDEL', P .. 'holders', tq.name)
  call('ZREM', P .. 'queue_used', tq.name)
end

-- Forgets queues into which no job came for long, if they are empty; how many it looked at.
local function forget_queues(max)
  local names = call('ZRANGEBYSCORE', P .. 'queue_used', '-inf', now - QUEUE_IDLE_MS, 'LIMIT', 0, max)
  for _, name in ipairs(names) do
    local tq = tenant_queue_of(string.match(name, '^([^,]*),(.*)$'))
    if is_queue_empty(tq) then forget_queue(tq) else call('ZADD', P .. 'queue_used', now, name) end
  end
  return #names
end

-- Takes out of a sorted set what is over, at most `max`: their names.
local function take_due(set, due, max)
  local names = call('ZRANGEBYSCORE', set, '-inf', due, 'LIMIT', 0, max)
  if #names == max then call('ZREMRANGEBYRANK', set, 0, max - 1) else call('ZREMRANGEBYSCORE', set, '-inf', due) end
  return names
end

-- Deletes keys that are over, at most `max`; how many.
local function prune_keys(set, prefix, max)
  local names = take_due(set, now, max)
  local keys = {}
  for i = 1, #names do keys[i] = prefix .. names[i] end
  for i = 1, #keys, 1000 do call('UNLINK', unpack(keys, i, math.min(i + 999, #keys))) end
  return #keys
end

-- Deletes jobs and workflows whose retention has passed, with all that belongs to them, idempotency keys, unique keys and key-value
-- entries that are over, what no rate needs any more, queues that nobody uses, and subscriptions that have ended.
-- In `retain`, the name of a workflow ends in 'w', and that of a job that was replaced in 'c'.
-- ARGV[2] max jobs, nodes and workflows   ARGV[3] max keys of each kind   ARGV[4] how long usage is kept
-- Returns the number of jobs, nodes and workflows that were deleted, the largest number of keys of a kind, or queues, and 1 when it
--   ended early, because their logs are long.
-- Complexity: O(m log N) for m deleted.
register('prune', 'allow-oom', function(args)
  local max_keys = tonumber(args[3])
  local rates = take_due(P .. 'rates', now * 1000, max_keys)
  in_pieces('HDEL', P .. 'paces', rates)
  local keys = math.max(#rates, forget_queues(max_keys), prune_keys(P .. 'idem_due', P .. 'idem:', max_keys),
    prune_keys(P .. 'uniq_due', P .. 'uniq:', max_keys))

  if usage.prune(tonumber(args[4])) then keys = math.max(keys, max_keys) end
  if kv.prune() then keys = math.max(keys, max_keys) end

  -- This ends those that are over.
  for _, tenant in ipairs(call('HKEYS', P .. 'followed')) do subscription_of(tenant) end

  local max, count = tonumber(args[2]), 0
  for _, name in ipairs(call('ZRANGEBYSCORE', P .. 'retain', '-inf', now, 'LIMIT', 0, max)) do
    if count == max or storage.work_done(0) > MOST_WORK then break end
    local last = sub(name, -1)
    if last == 'w' then
      count = count + prune_workflow(name, max - count)
    else
      prune_job(name, last == 'c' and sub(name, 1, -2) or name)
      count = count + 1
    end
  end
  flush()
  return { count, keys, storage.work_done(0) > MOST_WORK and 1 or 0 }
end)

-- Forgets a queue that is empty.
-- ARGV[2] tenant   ARGV[3] queue
-- Returns 'N' when there is no such queue, 'F' when it is not empty, 'D' when it was deleted.
-- Complexity: O(log N).
register('delete_queue', 'allow-oom', function(args)
  local tq = tenant_queue_of(args[2], args[3])
  if call('HEXISTS', P .. 'queues:' .. tq.tenant, tq.queue .. ':p') == 0 then return 'N' end
  if not is_queue_empty(tq) then return 'F' end
  forget_queue(tq)
  return 'D'
end)

-- Deletes jobs that have ended.
-- ARGV[3…] members
-- Returns for each -1 when there is no such job, or it is a node of a workflow that nobody finds; -2 when it is a node; its
--   state.
-- Complexity: O(n log N).
register('forget', 'allow-oom', function(args)
  local codes = {}
  for i = 3, #args do
    local member = args[i]
    local r = load(member)
    local code = r and r[STATE] or -1
    if r and has(r[FLAGS], NODE) then
      local wf = workflows.of(member)
      -- Staged, or half deleted.
      code = wf and (wf.state == workflows.STAGED or wf.pruned > 0) and -1 or -2
    elseif r and is_over(code) then
      unique.drop_key(member, r)
      prune_job(retained(member, r[FLAGS]), member)
    end
    codes[i - 2] = code
  end
  flush()
  return codes
end)

-- Deletes a workflow that is over: many nodes at once, and `prune` goes on with the rest.
-- ARGV[2] its member   ARGV[3] nodes to delete at once
-- Returns its state before (as WORKFLOW has it), -1 when there is no such workflow, -2 when it replaced a job.
-- Complexity: O(nodes log N).
register('forget_workflow', 'allow-oom', function(args)
  local name, wf = args[2] .. 'w', workflows.of(args[2])
  if not wf or wf.state == workflows.STAGED or wf.pruned > 0 then return -1 end
  if #wf.parent > 0 then return -2 end
  local state = wf.state
  if state ~= workflows.STARTED then
    call('ZADD', P .. 'retain', now, name)
    prune_workflow(name, tonumber(args[3]))
    flush()
  end
  return state
end)
