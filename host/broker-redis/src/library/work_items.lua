-- Work items: what happens when something arrives at a node or cancels it, and the stored list (`todo`) of what is left to do.

-- The status that a node with these bits sees: see `taken` in the broker's rules/join.rs.
function workflows.taken(bits, raw, adjusted)
  if bits % 2 == 1 then return raw == FAILURE_STATUS and OK or SKIP end
  if raw == FAILURE_STATUS and adjusted == OK and has(bits, workflows.LINK_BIT) then return SKIP end
  return adjusted
end

-- ---- joins

-- The join, or false.
local function join_at(member)
  local join = joins[member]
  if join == nil then
    local text = call('GET', P .. 'gate:' .. member)
    join = false
    if text then
      local v = { unpack_struct(JOIN, text) }
      local at = v[12]
      local members = at + 8 * v[9]
      local scope = members + 8 * v[10]
      join = { bits = v[2], status = v[3], pending = v[4], failed = v[5], skipped = v[6], after = v[7], group = v[8],
        next = sub(text, at, members - 1), members = sub(text, members, scope - 1), scope = sub(text, scope) }
    end
    joins[member] = join
  end
  return join
end

local function write_join(member, g)
  call('SET', P .. 'gate:' .. member, pack(JOIN, 1, g.bits, g.status, g.pending, g.failed, g.skipped, g.after, g.group,
    #g.next / 8, #g.members / 8, #g.scope / 8) .. g.next .. g.members .. g.scope)
  g.dirty = false
end

local function arrive_at_join(wf, number, join, raw, adjusted)
  if join.pending == 0 or join.status > 0 then return end
  -- Without members it waits for what its group waits for, as a job would.
  local seen = #join.members == 0 and workflows.taken(join.bits, raw, adjusted) or adjusted
  join.pending, join.dirty = join.pending - 1, true
  if seen == SKIP then
    join.skipped = join.skipped + 1
  elseif seen == FAILURE_STATUS then
    join.failed = join.failed + 1
    if join.failed == 1 and has(join.bits, THIRD_BIT) then
      add_item(CANCEL_NODES, wf.prefix, REVOKED, 0, join.scope, 1, #join.scope / 8)
    end
  end
  if join.pending > 0 then return end
  local status = OK
  if join.failed > 0 then status = FAILURE_STATUS elseif join.skipped > 0 then status = SKIP end
  join.status = status + 1
  emit(wf, number, status, on_failure_in(join.bits), join.next, 1, #join.next / 8)
end

-- ---- what happens to one node

-- Queues a waiting node, or schedules it. Only the part of the record that changes is written.
local function make_ready(wf, member, text)
  local t = template_of(wf, (unpack_struct('<I3', text, links_at(text, FIXED_AT))))
  local tq, expires, due = t.tq, 0, 0
  if t.expires_ms > 0 then expires = math.min(now + t.expires_ms, MAX_MS) end
  if t.start == 1 then due = math.min(now + t.start_ms, MAX_MS) elseif t.start == 2 then due = t.start_ms end
  if byte(text, FLAGS) >= HAS_OPTIONS then
    local r = opened(text)
    r[EXPIRES] = expires
    if due > now then
      delay(member, r, tq, SCHEDULED, due)
    else
      r[SCORE] = new_score(t.priority)
      enqueue(member, r, tq)
    end
    return save(member, r)
  end
  local state, score, look = QUEUED, 0, expires
  if due > now then
    state, look = SCHEDULED, due
    if expires > 0 and expires < due then look = expires end
    tq.delayed, tq.used = tq.delayed + 1, true
  else
    due, score = now, new_score(t.priority)
    put_ready(tq, score, id_of(member))
  end
  if look > 0 then zadd(P .. 'look', look, member) end
  call('SETRANGE', P .. 'job:' .. member, 1,
    pack('B', state) .. sub(text, 3, 22) .. pack('<I6I6I6I6I7', expires, due, 0, 0, score))
  recount(wf, WAITING, state)
  add_event(member, state, t.names, 1)
end

local function end_waiting(member, text, state, failure)
  local r = opened(text)
  local dead
  if failure then r[FAILURE], dead = failure, false end
  finish(member, r, state, dead)
  save(member, r)
end

local function arrive(wf, number, raw, adjusted)
  local member = node_of(wf, number)
  local join = joins[member]
  if join then return arrive_at_join(wf, number, join, raw, adjusted) end
  local text = call('GET', P .. 'job:' .. member)
  if not text then
    join = join_at(member)
    if join then arrive_at_join(wf, number, join, raw, adjusted) end
    return
  end
  local flags = byte(text, FLAGS)
  if byte(text, STATE) ~= WAITING or has(flags, REPLACED) or not has(flags, NODE) then return end
  local seen = workflows.taken(byte(text, links_at(text, FIXED_AT) + 3), raw, adjusted)
  if seen == SKIP then
    end_waiting(member, text, SKIPPED)
  elseif wf.cancelled > 0 then
    end_waiting(member, text, wf.cancelled)
  elseif seen == OK then
    make_ready(wf, member, text)
  else
    end_waiting(member, text, FAILED, UPSTREAM_FAILED)
  end
end

-- The workflow that replaced a job ended.
local function adopt(member, status)
  local r = load(member)
  if not r or r[STATE] ~= WAITING or not has(r[FLAGS], REPLACED) then return end
  if status == OK then
    r[FAILURE] = ''
    finish(member, r, SUCCEEDED)
  else
    -- A job on its own goes to the dead set: nobody else tells of it.
    r[FAILURE] = UPSTREAM_FAILED
    finish(member, r, FAILED, not has(r[FLAGS], NODE))
  end
  save(member, r)
end

-- Marks a running workflow as cancelled, and lists its nodes to be cancelled.
local function give_up(prefix, how)
  local wf = workflow_at(prefix)
  if not wf or not is_running(wf) or wf.cancelled > 0 then return end
  wf.cancelled, wf.dirty = how, true
  if wf.deadline > 0 then zrem(P .. 'deadlines', wf.prefix .. '000000') end
  add_item(CANCEL_NODES, wf.prefix, how, 0, pack('<I4I4', 0, wf.nodes), 1, 1)
end

-- The prefix of the workflow that replaced a job.
function workflows.child_of(member, r)
  return tenant_of(member) .. ',' .. sub(r[RESULT], 1, 20)
end

-- Ends a job that waits for something, and cancels the workflow that replaced it.
function workflows.revoke(member, r, how)
  leave(member, r, tenant_queue_of(tenant_of(member), queue_in(r[FIXED])))
  finish(member, r, how)
  save(member, r)
  if has(r[FLAGS], REPLACED) then give_up(workflows.child_of(member, r), how) end
end

local function cancel_node(wf, number, how)
  local member = node_of(wf, number)
  local text = call('GET', P .. 'job:' .. member)
  if not text or is_over(byte(text, STATE)) then return end
  local r = opened(text)
  if not has(r[FLAGS], CANCEL) then r[FLAGS] = r[FLAGS] + CANCEL end
  if has(r[FLAGS], LET_END) then r[FLAGS] = r[FLAGS] - LET_END end
  if r[STATE] == RUNNING then
    to_stop[#to_stop + 1] = id_of(member)
    save(member, r)
  else
    workflows.revoke(member, r, how)
  end
end

-- ---- doing the items

-- Does nodes of an item while there is budget and, for one that was stored, nothing of the step's own; what is left of
-- the budget. The item is done when it has no ranges left.
local function work_on(item, budget, is_own)
  local kind, prefix, raw, adjusted, text = item[1], item[2], item[3], item[4], item[5]
  if kind == ADOPT then
    adopt(prefix, raw)
    return budget - 1
  end
  -- A node that was readied may be cancelled in the same step.
  if kind == CANCEL_NODES then flush_indexes() end
  local wf = workflow_at(prefix)
  while item[7] > 0 and budget > 0 and (is_own or first_item > last_item) do
    local number, size = unpack_struct('<I4I4', text, item[6])
    size = math.max(size, 1)
    local from = item[8]
    local done, stop = from, math.min(size, from + budget)
    if not wf then done = stop end
    while done < stop and (is_own or first_item > last_item) do
      if kind == ARRIVE then
        arrive(wf, number + done, raw, adjusted)
      else
        cancel_node(wf, number + done, raw)
      end
      done = done + 1
    end
    budget = budget - (done - from)
    if done < size then
      item[8] = done
    else
      item[6], item[7], item[8] = item[6] + 8, item[7] - 1, 0
    end
  end
  return budget
end

-- Does items while there is budget: the call's own first, also those that come up meanwhile; then the stored list, from its
-- front. Answers what is left of the budget.
function work.do_items(budget)
  if first_item > last_item and call('EXISTS', P .. 'todo') == 0 then return budget end
  local stored
  while budget > 0 do
    local item = items[first_item]
    if item then
      budget = work_on(item, budget, true)
      if item[7] == 0 then
        items[first_item] = nil
        first_item = first_item + 1
      end
    else
      if not stored then
        local text = call('LPOP', P .. 'todo')
        if not text then return budget end
        stored = opened_item(text)
      end
      budget = work_on(stored, budget, false)
      if stored[7] == 0 then stored = nil end
    end
  end
  if stored then call('LPUSH', P .. 'todo', packed_item(stored)) end
  return budget
end

-- A block: the library has few local names left.
do
  local function unfinished(wf)
    local c = wf.counts
    return c[1] + c[2] + c[3] + c[4] + c[9]
  end

  -- Ends a workflow whose end was reached and that has nothing left to do; whether it did. A release before this one tells the
  -- job that was replaced when the end is reached, and nobody when the callbacks have ended after it: `meta:adopt` has the
  -- workflows that a release might end so, for `promote` to look at.
  local function look_whether_over(wf)
    if wf.ending == 0 or not is_running(wf) then return end
    if unfinished(wf) > 0 then
      if #wf.parent > 0 then call('ZADD', P .. 'meta:adopt', now + work.ADOPT_PAUSE, wf.prefix) end
      return
    end
    local member = wf.prefix .. '000000'
    if wf.deadline > 0 then zrem(P .. 'deadlines', member) end
    if wf.ending == OK + 1 then
      wf.state = DONE
    elseif wf.cancelled == EXPIRED then
      wf.state = LATE
    elseif wf.cancelled > 0 then
      wf.state = STOPPED
    else
      wf.state = FLOPPED
    end
    wf.finished = now
    if #wf.parent == 0 then
      zadd(P .. 'retain', now + wf.keep, member .. 'w')
    elseif wf.orphaned == 1 then
      zadd(P .. 'retain', now, member .. 'w')
    end
    notify_ended(wf.id)
    return true
  end

  -- Workflows that replaced a job are looked at so often, milliseconds, from when their end is reached until they are over.
  work.ADOPT_PAUSE = 1000

  -- Lists the job that a workflow replaced to be ended as the workflow has.
  local function add_adoption(wf)
    call('ZREM', P .. 'meta:adopt', wf.prefix)
    add_item(ADOPT, wf.tenant .. ',' .. wf.parent, wf.ending - 1, 0, '', 1, 0)
  end

  -- Looks at a workflow that is due in `meta:adopt`.
  function work.look_at_replacement(prefix)
    local wf = workflow_at(prefix)
    if not wf then
      call('ZREM', P .. 'meta:adopt', prefix)
    elseif is_running(wf) then
      call('ZADD', P .. 'meta:adopt', now + work.ADOPT_PAUSE, prefix)
    else
      add_adoption(wf)
    end
  end

  -- Ends the workflows of this call that are over. The jobs that they replaced are told in the order of the workflows' names.
  function work.finish_workflows()
    local replaced = {}
    for _, wf in pairs(known) do
      if wf and wf.dirty and look_whether_over(wf) and #wf.parent > 0 then replaced[#replaced + 1] = wf end
    end
    table.sort(replaced, function(a, b) return turns.before(a.prefix, b.prefix) end)
    for _, wf in ipairs(replaced) do add_adoption(wf) end
  end
end

-- Does at most ADVANCE nodes, and ends the workflows that are over: the end of one may end the job that it replaced, from which
-- more follows. flush() stores what is left of the call's own items. Called once, after all that may add items.
-- Complexity: O(nodes log N): one GET and one write per node, one GET and one SET per join and workflow.
function work.advance()
  local budget = ADVANCE
  repeat
    budget = work.do_items(budget)
    work.finish_workflows()
  until budget == 0 or first_item > last_item
end

function work.flush()
  work.finish_workflows()
  local left = { n = 0 }
  for i = first_item, last_item do
    left.n = left.n + 1
    left[left.n] = packed_item(items[i])
  end
  in_pieces('RPUSH', P .. 'todo', left)
  items, first_item, last_item = {}, 1, 0
  for member, join in pairs(joins) do
    if join and join.dirty then write_join(member, join) end
  end
  for _, wf in pairs(known) do
    if wf and wf.dirty then write_workflow(wf) end
  end
end

workflows.give_up = give_up
