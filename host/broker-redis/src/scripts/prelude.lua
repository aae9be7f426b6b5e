-- Put behind names.lua in front of every script: the clock, the record, and where a job waits.
--
-- KEYS[1]  any key of the shard (it routes the script); all other keys are built here and have the same hash tag
-- ARGV[1]  prefix of every key, ends in ':'
-- ARGV[2]  the time, milliseconds, or nothing for the server's own clock; then ';' and how many dead jobs a tenant has
-- ARGV[3…] the script's own
--
-- A job is named by its member, '<tenant>,<id>': ',' sorts before all that may be in a tenant's name, so members sort as
-- the pair does. What users sent (spec, result, failure, logs) passes through as it is and is never parsed.
-- Numbers stay below 2^53. They go to redis.call as numbers (Redis writes them with %.17g), never through '..', which
-- writes %.14g.

local P = ARGV[1]
local call, pack, unpack_struct, sub, byte = redis.call, struct.pack, struct.unpack, string.sub, string.byte
local now, max_dead = string.match(ARGV[2], '^(%d*);(%d+)$')
now = tonumber(now)
if not now then
  local t = call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end

local function has(flags, flag)
  return flags % (flag * 2) >= flag
end

-- canvas(), set by canvas_close.lua, gives what a script does with workflows; `open_canvas` is that once it was asked for.
-- rules(), set by rules_close.lua, gives what concerns few jobs: lanes and limits, unique keys, the dead set.
local canvas, open_canvas, rules

-- A record as a table. That of a node remembers the state that its workflow knows.
local function opened(text)
  local r = { unpack_struct(FULL, text) }
  if has(r[3], NODE) then r.was = r[2] end
  return r
end

-- The least that a record has. One that is damaged must not stop the others: it is passed over, and an audit tells of it.
local function is_readable(text)
  return #text >= 95 and byte(text) == 1 and byte(text, STATE) <= SKIPPED
end

-- The record of a job; nothing when there is none that can be read.
local function load(member)
  local text = call('GET', P .. 'job:' .. member)
  if not text or not is_readable(text) then return end
  local done, r = pcall(opened, text)
  return done and r or nil
end

local function save(member, r)
  if r.was and r.was ~= r[2] then canvas().node_changed(member, r) end
  local token, worker, fixed, result, failure, progress, history =
    r[17], r[18], r[19], r[20], r[21], r[22], r[24]
  call('SET', P .. 'job:' .. member, pack(FULL, 1, r[2], r[3], r[4], r[5], r[6], r[7], r[8], r[9], r[10], r[11], r[12],
    r[13], r[14], r[15], r[16], #token, token, #worker, worker, #fixed, fixed, #result, result, #failure, failure,
    #progress, progress, r[23], #history, history))
end

-- The immutable part: length and text of the queue, of the task, then the spec.
local function queue_in(fixed)
  return sub(fixed, 2, 1 + byte(fixed))
end

local function is_over(state)
  return state >= SUCCEEDED and state ~= WAITING
end

local function tenant_of(member)
  return sub(member, 1, -28)
end

local function id_of(member)
  return sub(member, -26)
end

-- Index writes are collected by key and sent in few calls.
local added, removed = {}, {}

local function zadd(key, score, member)
  local list = added[key]
  if not list then
    list = { n = 0 }
    added[key] = list
  end
  local n = list.n
  list[n + 1], list[n + 2], list.n = score, member, n + 2
end

local function zrem(key, member)
  local list = removed[key]
  if not list then
    list = { n = 0 }
    removed[key] = list
  end
  list.n = list.n + 1
  list[list.n] = member
end

-- Lua's stack bounds the arguments of one call.
local function in_pieces(command, key, list)
  local n = list.n or #list
  for i = 1, n, 1000 do
    call(command, key, unpack(list, i, math.min(i + 999, n)))
  end
end

-- A line is a tenant's queue. Its counters are added up here.
local lines = {}

local function line_of(tenant, queue)
  local name = tenant .. ',' .. queue
  local line = lines[name]
  if not line then
    line = { tenant = tenant, queue = queue, name = name, ready = P .. 'ready:' .. name, fair = P .. 'fair:' .. queue,
      running = 0, delayed = 0 }
    lines[name] = line
  end
  return line
end

local ready_in, ended, ended_n, to_stop = {}, {}, 0, {}

-- Sends the index writes: before a claim, and before a second write for the same job.
local function flush_indexes()
  for key, list in pairs(removed) do in_pieces('ZREM', key, list) end
  for key, list in pairs(added) do in_pieces('ZADD', key, list) end
  added, removed = {}, {}
end

-- Tells who listens. One message per topic.
local function tell()
  local queues = {}
  for queue in pairs(ready_in) do queues[#queues + 1] = queue end
  if #queues > 0 then call('PUBLISH', P .. 'work', table.concat(queues, ',')) end
  if ended_n > 0 then call('PUBLISH', P .. 'done', table.concat(ended, ',')) end
  if #to_stop > 0 then call('PUBLISH', P .. 'cancel', table.concat(to_stop, ',')) end
end

-- Whether a line has lanes or is parked, or its tenant has a control: `special` names those lines and tenants.
local anything_special
local function is_anything_special()
  if anything_special == nil then anything_special = call('EXISTS', P .. 'special') == 1 end
  return anything_special
end

local function is_special(line)
  if line.special == nil then
    line.special = false
    if is_anything_special() then
      local found = call('HMGET', P .. 'special', line.tenant, line.name)
      line.special = (found[1] or found[2]) and true
    end
  end
  return line.special
end

-- Who is followed, see the broker's events.rs: `followed` has '<until> <last number>' by tenant, and `special` has ',' while
-- there is anybody, so that it costs nothing to find out that there is nobody.
local MAX_EVENTS = 10000
local anybody_followed
local followings = {}

local function end_following(tenant)
  call('HDEL', P .. 'followed', tenant)
  call('UNLINK', P .. 'events:' .. tenant)
  if call('EXISTS', P .. 'followed') == 0 then call('HDEL', P .. 'special', ',') end
end

-- What is known of the followers of a tenant, or false.
local function following_of(tenant)
  local following = followings[tenant]
  if following == nil then
    following = false
    local text = call('HGET', P .. 'followed', tenant)
    if text then
      local until_ms, last = string.match(text, '^(%d+) (%d+)$')
      if tonumber(until_ms) > now then
        following = { until_ms = until_ms, last = tonumber(last), n = 0 }
      else
        end_following(tenant)
      end
    end
    followings[tenant] = following
  end
  return following
end

-- A job's state was changed. Its immutable part begins at `at` in `text`.
local function tell_state(member, state, text, at)
  if anybody_followed == nil then
    anybody_followed = is_anything_special() and call('HEXISTS', P .. 'special', ',') == 1
  end
  local following = anybody_followed and following_of(tenant_of(member))
  if not following then return end
  at = at + 1 + byte(text, at)
  local n = following.n + 1
  following[n], following.n = pack('<I6B', now, state) .. id_of(member) .. sub(text, at + 1, at + byte(text, at)), n
end

local function flush_events()
  local highest
  for tenant, following in pairs(followings) do
    if following and following.n > 0 then
      local key = P .. 'events:' .. tenant
      in_pieces('RPUSH', key, following)
      call('LTRIM', key, 0 - MAX_EVENTS, -1)
      following.last = following.last + following.n
      call('HSET', P .. 'followed', tenant, string.format('%s %.0f', following.until_ms, following.last))
      highest = math.max(highest or 0, following.last)
    end
  end
  followings = {}
  -- Numbers rise also when the clock goes back between two followings.
  if highest and highest > tonumber(call('GET', P .. 'last_event') or 0) then call('SET', P .. 'last_event', highest) end
end

-- Sends what was collected. Called once, at the end.
local function flush()
  if open_canvas then open_canvas.flush() end
  flush_indexes()
  flush_events()
  for _, line in pairs(lines) do
    local queues = P .. 'queues:' .. line.tenant
    -- Where nothing runs, nobody asks who ran it.
    if line.running ~= 0 and call('HINCRBY', queues, line.queue .. ':r', line.running) <= 0 then
      call('HDEL', P .. 'holders', line.name)
    end
    if line.delayed ~= 0 then call('HINCRBY', queues, line.queue .. ':d', line.delayed) end
    line.running, line.delayed = 0, 0
  end
end

-- A tenant that comes (back) to a queue is served after the one that was served least: level with it, one that comes
-- back after each of its jobs would always be first.
local function take_turn(line)
  local first = call('ZRANGE', line.fair, 0, 0, 'WITHSCORES')
  if first[2] then
    call('ZADD', line.fair, tonumber(first[2]) + 1, line.tenant)
  else
    call('ZADD', P .. 'active_queues', 0, line.queue)
    call('ZADD', line.fair, 0, line.tenant)
  end
end

-- The line has ready jobs, or will have them at the end of this script.
local function activate(line)
  if line.active then return end
  line.active = true
  if call('ZSCORE', line.fair, line.tenant) then return end
  if call('HGET', P .. 'queues:' .. line.tenant, line.queue .. ':p') ~= '1' then take_turn(line) end
end

-- A plain job becomes ready. Of a line with lanes nothing is written later than it is read.
local function put_ready(line, score, id)
  if is_special(line) then
    call('ZADD', line.ready, score, id)
    rules().settle_line(line)
  else
    zadd(line.ready, score, id)
    activate(line)
  end
  ready_in[line.queue] = true
end

-- To the ready jobs, with the score in the record.
local function enqueue(member, r, line)
  if r[STATE] == SCHEDULED or r[STATE] == RETRYING then zrem(P .. 'look', member) end
  r[STATE], r[DUE] = QUEUED, 0
  if r[EXPIRES] > 0 then zadd(P .. 'look', r[EXPIRES], member) end
  ready_in[line.queue] = true
  tell_state(member, QUEUED, r[FIXED], 1)
  if r[FLAGS] >= MORE and rules().into_lane(member, r, line) then return end
  call('ZADD', line.ready, r[SCORE], id_of(member))
  if is_special(line) then rules().settle_line(line) else activate(line) end
end

-- The score of a job that joins the line now. Numbers are taken from the store in growing blocks.
local seq, seq_end, seq_block = 0, 0, 1
local function new_score(priority)
  if seq == seq_end then
    seq_end = call('INCRBY', P .. 'seq', seq_block)
    seq = seq_end - seq_block
    seq_block = math.min(4 * seq_block, 256)
  end
  seq = seq + 1
  return (9 - priority) * 281474976710656 + seq
end

local function delay(member, r, line, state, due)
  due = math.min(due, MAX_MS)
  r[STATE], r[DUE] = state, due
  tell_state(member, state, r[FIXED], 1)
  local look = due
  if r[EXPIRES] > 0 and r[EXPIRES] < due then look = r[EXPIRES] end
  zadd(P .. 'look', look, member)
  line.delayed = line.delayed + 1
end

-- Takes a job out of whatever it waits in.
local function leave(member, r, line)
  local state = r[STATE]
  if state == QUEUED then
    if r[FLAGS] >= LANED then return rules().leave_lane(member, r, line) end
    call('ZREM', line.ready, id_of(member))
    if is_special(line) then
      rules().settle_line(line)
    elseif call('EXISTS', line.ready) == 0 then
      call('ZREM', line.fair, line.tenant)
      line.active = false
    end
  elseif state == RUNNING then
    zrem(P .. 'leases', member)
    line.running = line.running - 1
    if r[FLAGS] >= LANED or is_special(line) then rules().make_place(line, member, r) end
  elseif state == SCHEDULED or state == RETRYING then
    line.delayed = line.delayed - 1
  end
end

-- Its name in `retain`. One that was replaced owns a workflow: prune.lua looks.
local function retained(member, flags)
  return has(flags, REPLACED) and member .. 'c' or member
end

local function tell_ended(member)
  ended_n = ended_n + 1
  ended[ended_n] = id_of(member)
end

-- Ends a job; it has left what it waited in. A failed one gets into the dead set if it has retention there, unless `dead`
-- is false.
local function finish(member, r, state, dead)
  local old = r[STATE]
  if old == SCHEDULED or old == RETRYING or (old == QUEUED and r[EXPIRES] > 0) then zrem(P .. 'look', member) end
  r[STATE], r[FINISHED], r[DUE] = state, now, 0
  tell_state(member, state, r[FIXED], 1)
  local is_node, keep = has(r[FLAGS], NODE), r[RESULT_TTL]
  dead = state == FAILED and dead ~= false and (is_node or r[DEAD_TTL] > 0)
  local until_ms = now + (dead and math.max(keep, r[DEAD_TTL]) or keep)
  if r[FLAGS] >= MORE then until_ms = math.max(until_ms, rules().release(member, r)) end
  tell_ended(member)
  if is_node then
    canvas().node_ended(member, r)
  else
    zadd(P .. 'retain', math.min(until_ms, MAX_MS), retained(member, r[FLAGS]))
  end
  if dead then rules().bury(member, r) end
end

-- Appends to the history. The first entry and the newest ones are kept, MAX_HISTORY together.
local function remember(member, r, entry)
  local key = P .. 'history:' .. member
  local inline, apart = r[HISTORY_LEN], 0
  if has(r[FLAGS], HISTORY_APART) then apart = call('LLEN', key) end
  if inline + apart >= MAX_HISTORY then
    if inline >= 2 then
      local first = 4 + unpack_struct('<I4', r[HISTORY])
      local second = 4 + unpack_struct('<I4', r[HISTORY], first + 1)
      r[HISTORY] = sub(r[HISTORY], 1, first) .. sub(r[HISTORY], first + second + 1)
      r[HISTORY_LEN] = inline - 1
    elseif inline == 1 then
      call('LPOP', key)
    else
      local first = call('LPOP', key)
      call('LPOP', key)
      call('LPUSH', key, first)
    end
  end
  if apart > 0 or #r[HISTORY] + #entry > HISTORY_INLINE then
    call('RPUSH', key, entry)
    if apart == 0 then r[FLAGS] = r[FLAGS] + HISTORY_APART end
  else
    r[HISTORY] = r[HISTORY] .. pack('<I4', #entry) .. entry
    r[HISTORY_LEN] = r[HISTORY_LEN] + 1
  end
end

-- The first write of a script decides whether a full Redis refuses it. ZREM is always allowed, so that a script that
-- begins with it can end jobs when there is no room to add any.
local function allowed_when_full()
  call('ZREM', P .. 'leases', '')
end
