-- Whose turn it is in a claim, by the rules of the broker's limits.rs.
--
-- `meta:turns` has the tenants that wait for their turn, `meta:open:<tenant>` the open queues of one, and `meta:rested` the
-- tenants that wait for nothing and were served a short time ago, all by virtual finish time. `meta:turn` is the virtual time.
--
-- Processes of older releases know only `fair:<queue>`, so that is the truth: what a claim finds in `meta:open:…` it looks for
-- there, and now and then it looks for tenant queues of `fair:…` that are missing here. The score of a tenant in `fair:…` is
-- its virtual finish time as of the last look, and so never more than it is.

-- Entries of `active_queues`, and tenants of each, of which one claim looks whether they are known here.
local MENDED_AT_ONCE = 16
-- Between two walks over them, and between those of claims that found nothing, ms.
local MENDED_EVERY, MENDED_AGAIN = 1000, 50
-- Open queues that are not open any more, of which one claim forgets so many.
local MOST_STALE = 1000

-- Of this claim: the queues that it names in order, or (nothing) those that it does not ask by name; stale entries so far.
local names, except, stale
-- Of this claim, which asks all queues: by tenant the queue that it goes on with, its virtual finish time, and how often it was
-- served in a row; at most how often. Its entry among the open queues has been taken, and is written as it is.
local in_row, most_in_row
-- The tenants in turn; with named queues those that were found so far, `heads` read more of them, and `nearest` is the least
-- score that was not read.
local waiting, heads, nearest
-- By tenant its open queues: readers, or (with named queues) lists of what was found, in order. All that was found. The one
-- that is next. Tenants that wait for nothing any more, and the highest virtual finish time that was served.
local open_of, all_found, current, rested, latest
-- When, in which store and up to which queue the last walk went. Kept from call to call: a server that starts anew walks anew.
local mended_at, mended_in, mended_to

local function forget()
  waiting, heads, nearest, current, latest = nil, nil, nil, nil, nil
  open_of, all_found, rested = {}, {}, {}
end

resets[#resets + 1] = forget

-- Begins a claim.
function turns.begin(named, all_but, most)
  names, except, stale, in_row, most_in_row = named, all_but, 0, {}, math.max(most, 1)
  forget()
end

local function pass_time()
  if latest and latest > tonumber(call('GET', P .. 'meta:turn') or turns.FIRST) then
    call('SET', P .. 'meta:turn', latest)
    call('ZREMRANGEBYSCORE', P .. 'meta:rested', '-inf', string.format('(%.0f', latest))
  end
  latest = nil
end

-- ---- a tenant alone

-- The virtual finish time of a tenant that is the only one in all queues, with one of them.
local only_turn

local function alone_in_named()
  local tqs, tenant = {}, nil
  for _, name in ipairs(names) do
    local found = call('ZRANGE', P .. 'fair:' .. name, 0, 1)
    if found[2] or (tenant and found[1] and found[1] ~= tenant) then return end
    if found[1] then
      tenant = found[1]
      tqs[#tqs + 1] = tenant_queue_of(tenant, name)
    end
  end
  return tqs
end

local function alone_in_all()
  local found = call('ZRANGE', P .. 'meta:turns', 0, 1, 'WITHSCORES')
  if found[3] then return end
  if not found[1] then return {} end
  local open = call('ZRANGE', P .. 'meta:open:' .. found[1], 0, 1)
  if open[2] or not open[1] or except[open[1]] then return end
  local tq = tenant_queue_of(found[1], open[1])
  only_turn = tonumber(found[2])
  return call('ZSCORE', tq.fair, tq.tenant) and { tq }
end

-- Whether this claim takes nothing more of a tenant.
function turns.is_left_out(tenant)
  return claims.limited.left <= 0 and claims.limited.tenants[tenant]
end

-- The tenant queues that a claim empties one after the other: only one tenant has any, none of them with sub-queues or
-- controls, and there is an order. Nothing if that is not so.
function turns.alone()
  only_turn = nil
  local tqs = names and alone_in_named()
  if not names then tqs = alone_in_all() end
  for _, tq in ipairs(tqs or {}) do
    if is_special(tq) or turns.is_left_out(tq.tenant) then return end
  end
  return tqs
end

-- Counts turns of a tenant that is alone: how many of each of the tenant queues, and whether that one is open.
function turns.count_alone(tqs, counts, is_open)
  local tenant, all = tqs[1].tenant, 0
  local turn = only_turn or call('ZSCORE', P .. 'meta:turns', tenant) or turns.join(tqs[1])
  for _, count in ipairs(counts) do all = all + count end
  latest = all > 0 and turn + all - 1
  if only_turn and not is_open[1] then
    turns.leave_alone(tqs[1])
    return pass_time()
  end
  call('ZADD', P .. 'meta:turns', turn + all, tenant)
  for i, count in ipairs(counts) do
    if not is_open[i] then
      turns.leave(tqs[i])
    elseif count > 0 then
      call('ZINCRBY', P .. 'meta:open:' .. tenant, count, tqs[i].queue)
    end
  end
  pass_time()
end

-- ---- named queues

local function read_heads()
  waiting, heads = reader_of(P .. 'meta:turns', 0), {}
  waiting.at_end = true
  for place, name in ipairs(names) do
    local head = reader_of(P .. 'fair:' .. name, 4)
    local tenant, score = first_of(head)
    if tenant then
      head.queue, head.place, heads[#heads + 1] = name, place, head
      nearest = math.min(nearest or score, score)
    end
  end
end

local function add_found(head, tenant, score)
  local found = { tq = tenant_queue_of(tenant, head.queue), place = head.place, score = score, served = 0 }
  local list = open_of[tenant]
  if not list then
    list = { turn = tonumber(call('ZSCORE', P .. 'meta:turns', tenant) or turns.join(found.tq)) }
    open_of[tenant] = list
  end
  local i = #list
  while i > 0 and list[i].place > found.place do
    list[i + 1], i = list[i], i - 1
  end
  list[i + 1], all_found[#all_found + 1] = found, found
  if not list.waits then
    list.waits = true
    put_back(waiting, tenant, list.turn)
  end
end

-- Finds the tenants of the named queues who may be next.
local function find_more()
  local _, turn = first_of(waiting)
  while nearest and (not turn or nearest <= turn) do
    local most = turn or nearest
    nearest = nil
    for _, head in ipairs(heads) do
      local tenant, score = first_of(head)
      while tenant and score <= most do
        take_first(head)
        add_found(head, tenant, score)
        tenant, score = first_of(head)
      end
      if tenant then nearest = math.min(nearest or score, score) end
    end
    _, turn = first_of(waiting)
  end
end

local function next_of_named(excluded, deferred)
  if not waiting then read_heads() end
  find_more()
  local tenant = first_of(waiting)
  while tenant do
    local list = open_of[tenant]
    for _, found in ipairs((deferred[tenant] or turns.is_left_out(tenant)) and {} or list) do
      if not excluded[found.tq.name] then
        current = found
        return found.tq
      end
    end
    take_first(waiting)
    list.waits = false
    find_more()
    tenant = first_of(waiting)
  end
end

-- It is not open any more.
local function remove_found(list)
  for i, found in ipairs(list) do
    if found == current then table.remove(list, i) end
  end
  current.is_closed = true
end

local function count_named(is_open)
  local tenant, turn = first_of(waiting)
  local list = open_of[tenant]
  current.served, list.turn = current.served + 1, turn + 1
  if not is_open then remove_found(list) end
  if list[1] then return replace_first(waiting, turn + 1) end
  take_first(waiting)
  list.waits, waiting.changed[tenant] = false, turn + 1
end

local function write_named()
  local scores = {}
  for _, found in ipairs(all_found) do
    local tq = found.tq
    if found.is_closed then
      turns.leave(tq)
    else
      if found.served > 0 then call('ZINCRBY', P .. 'meta:open:' .. tq.tenant, found.served, tq.queue) end
      local turn = open_of[tq.tenant].turn
      if turn > found.score then
        local list = scores[tq.fair] or {}
        list[#list + 1], list[#list + 2], scores[tq.fair] = turn, tq.tenant, list
      end
    end
  end
  for key, list in pairs(scores) do in_pieces('ZADD', key, list) end
end

-- ---- all queues

-- The open queues of a tenant, without the one that it goes on with.
local function open_queues_of(tenant)
  local open = open_of[tenant]
  if not open then
    local key, row = P .. 'meta:open:' .. tenant, in_row[tenant]
    if row then
      -- What was read was forgotten, because something was blocked or moved.
      row.finish = tonumber(call('ZSCORE', key, row.queue) or nil)
      if not row.finish then in_row[tenant] = nil end
    end
    open = reader_of(key, 2, in_row[tenant] and row.queue)
    open_of[tenant] = open
  end
  return open
end

-- A tenant does not go on with its queue, which is still open or not.
local function end_row(tenant, open, is_open)
  local row = in_row[tenant]
  open.changed[row.queue] = is_open and row.finish or false
  if is_open then put_back(open, row.queue, row.finish) end
  in_row[tenant] = nil
end

-- The first open queue of a tenant of which this claim may take something.
local function next_queue_of(tenant, excluded)
  local open = open_queues_of(tenant)
  local row = in_row[tenant]
  if row then
    if not excluded[row.tq.name] then return row.tq end
    end_row(tenant, open, true)
  end
  while stale < MOST_STALE do
    local queue = first_of(open)
    if not queue then return end
    local tq = tenant_queue_of(tenant, queue)
    if except[queue] or excluded[tq.name] then
      take_first(open)
      open.has_others = true
    elseif open.known == queue or call('ZSCORE', tq.fair, tenant) then
      open.known = queue
      return tq
    else
      replace_first(open)
      stale = stale + 1
    end
  end
end

local function next_of_all(excluded, deferred)
  waiting = waiting or reader_of(P .. 'meta:turns', 4)
  local tenant = first_of(waiting)
  while tenant and stale < MOST_STALE do
    local tq = not deferred[tenant] and not turns.is_left_out(tenant) and next_queue_of(tenant, excluded)
    if tq then return tq end
    local open = open_of[tenant]
    if open and not first_of(open) and not open.has_others and not in_row[tenant] then
      replace_first(waiting)
      stale = stale + 1
    else
      take_first(waiting)
    end
    tenant = first_of(waiting)
  end
end

local function count_all(tq, is_open, n)
  local tenant, turn = first_of(waiting)
  local open, row = open_of[tenant], in_row[tenant]
  if not row then
    local queue, finish = first_of(open)
    take_first(open)
    open.known, row = nil, { queue = queue, tq = tq, finish = finish, served = 0 }
    in_row[tenant] = row
  end
  row.served, row.finish = row.served + n, row.finish + n
  open.changed[row.queue] = row.finish
  if not is_open then call('ZREM', tq.fair, tenant) end
  if not is_open or row.served >= most_in_row then end_row(tenant, open, is_open) end
  if in_row[tenant] or first_of(open) or open.has_others then return replace_first(waiting, turn + n) end
  replace_first(waiting)
  rested[#rested + 1], rested[#rested + 2] = turn + n, tenant
end

-- ---- both

-- The tenant queue that is next, of those that are neither excluded nor of a tenant that is deferred.
function turns.next(excluded, deferred)
  if names then return next_of_named(excluded, deferred) end
  return next_of_all(excluded, deferred)
end

-- How many turns the tenant queue that is next has, one after the other.
function turns.in_row(tq)
  if names then return 1 end
  local row, _, turn = in_row[tq.tenant], first_of(waiting)
  local left = most_in_row - (row and row.served or 0)
  return math.max(math.min(left, least_behind_first(waiting) - turn), 1)
end

-- Counts so many of them; whether it is still open.
function turns.count(tq, is_open, n)
  local _, turn = first_of(waiting)
  latest = math.max(latest or 0, turn + n - 1)
  if names then count_named(is_open) else count_all(tq, is_open, n) end
  tq.active = false
end

-- The tenant queue that was next is not open, whatever stands in `fair:…`.
function turns.not_open(tq)
  tq.active = false
  if names then return remove_found(open_of[tq.tenant]) end
  if in_row[tq.tenant] then
    end_row(tq.tenant, open_of[tq.tenant], false)
  else
    replace_first(open_of[tq.tenant])
  end
  call('ZREM', tq.fair, tq.tenant)
end

-- Writes what was counted, and forgets what was read.
function turns.write()
  if not waiting then return end
  write_changed(waiting)
  if names then
    write_named()
  else
    for _, open in pairs(open_of) do write_changed(open) end
    if rested[1] then turns.rest(rested) end
  end
  pass_time()
  forget()
end

-- Whether there is something to hand out to this claim or to others: in which queue.
function turns.ready_queue()
  if names then
    for _, name in ipairs(names) do
      if call('EXISTS', P .. 'fair:' .. name) == 1 then return name end
    end
    return
  end
  local tenant = call('ZRANGE', P .. 'meta:turns', 0, 0)[1]
  return tenant and call('ZRANGE', P .. 'meta:open:' .. tenant, 0, 0)[1]
end

function turns.is_cut_short()
  return stale >= MOST_STALE
end

-- Looks for tenant queues that a process of an older release opened, going on where the last claim stopped: once a second, and
-- sooner when there was nothing to hand out. Whether there were some.
function turns.mend(found_nothing)
  local walked = mended_in == P and mended_at <= now and now - mended_at
  if walked and walked < (found_nothing and (mended_to and 0 or MENDED_AGAIN) or MENDED_EVERY) then return false end
  local from, mended = walked and mended_to and '(' .. mended_to or '-', false
  local queues = call('ZRANGEBYLEX', P .. 'active_queues', from, '+', 'LIMIT', 0, MENDED_AT_ONCE)
  for _, queue in ipairs(queues) do
    local tenants = call('ZRANGE', P .. 'fair:' .. queue, 0, MENDED_AT_ONCE - 1)
    for _, tenant in ipairs(tenants) do
      if not call('ZSCORE', P .. 'meta:open:' .. tenant, queue) then
        turns.join(tenant_queue_of(tenant, queue))
        mended = true
      end
    end
    if #tenants == 0 then call('ZREM', P .. 'active_queues', queue) end
  end
  mended_at, mended_in, mended_to = now, P, queues[MENDED_AT_ONCE]
  return mended
end
