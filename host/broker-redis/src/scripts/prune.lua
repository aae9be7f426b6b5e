-- Deletes jobs and workflows whose retention has passed, with all that belongs to them, and idempotency keys that are
-- over, what no rate needs any more, and events that nobody follows any more. Needs rules and canvas.lua.
-- In `retain`, the name of a workflow ends in 'w', and that of a job that was replaced in 'c'.
-- ARGV[3] max jobs, nodes and workflows   ARGV[4] max idempotency keys and unique keys
-- Returns the number of them deleted.
-- Complexity: O(m log N) for m deleted.

-- What is deleted makes room.
allowed_when_full()
local keys = call('ZRANGEBYSCORE', P .. 'idem_due', '-inf', now, 'LIMIT', 0, tonumber(ARGV[4]))
for _, name in ipairs(keys) do
  call('DEL', P .. 'idem:' .. name)
  zrem(P .. 'idem_due', name)
end

for _, name in ipairs(call('ZRANGEBYSCORE', P .. 'uniq_due', '-inf', now, 'LIMIT', 0, tonumber(ARGV[4]))) do
  call('DEL', P .. 'uniq:' .. name)
  zrem(P .. 'uniq_due', name)
end
for _, name in ipairs(call('ZRANGEBYSCORE', P .. 'rates', '-inf', now * 1000, 'LIMIT', 0, tonumber(ARGV[4]))) do
  zrem(P .. 'rates', name)
  call('HDEL', P .. 'paces', name)
end

-- This ends those that are over.
for _, tenant in ipairs(call('HKEYS', P .. 'followed')) do following_of(tenant) end

local function prune_node(wf, number)
  local member = canvas().node_of(wf, number)
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
    leave(member, r, line_of(wf.tenant, queue_in(r[FIXED])))
  end
  if state == FAILED then rules().leave_dead(wf.tenant, id_of(member)) end
  unlink(member)
end

-- Deletes at most `most` of a workflow's nodes and then itself; how many.
local function prune_workflow(name, most)
  local member = sub(name, 1, -2)
  local wf = canvas().workflow_of(member)
  if not wf then
    zrem(P .. 'retain', name)
    return 1
  end
  if wf.pruned == 0 then zrem(P .. 'workflows:' .. wf.tenant, wf.id) end
  local count = math.min(most, wf.nodes - wf.pruned)
  for number = wf.pruned, wf.pruned + count - 1 do prune_node(wf, number) end
  wf.pruned, wf.dirty = wf.pruned + count, true
  if count == most then return count end
  if call('HINCRBY', P .. 'wf_nodes', wf.tenant, 0 - wf.nodes) <= 0 then call('HDEL', P .. 'wf_nodes', wf.tenant) end
  call('UNLINK', P .. 'wf:' .. member, P .. 'wft:' .. member)
  zrem(P .. 'retain', name)
  zrem(P .. 'deadlines', member)
  canvas().workflows[wf.prefix] = false
  return count + 1
end

local max, count = tonumber(ARGV[3]), 0
for _, name in ipairs(call('ZRANGEBYSCORE', P .. 'retain', '-inf', now, 'LIMIT', 0, max)) do
  if count == max then break end
  local last = sub(name, -1)
  if last == 'w' then
    count = count + prune_workflow(name, max - count)
  else
    prune_job(name, last == 'c' and sub(name, 1, -2) or name)
    count = count + 1
  end
end
flush()
return count
