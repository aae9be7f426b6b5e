-- Put behind rules_open.lua: lanes, what is parked, and what opens it again. The rules are those of the broker's limits.rs.
--
-- A line with lanes or a park has a hash `line:<line>`: `n` lanes, `q` jobs in them, `c` its clock, `p` the tag of its plain
-- jobs, `n:<task>` key lanes of a lane, `c:<task>` its clock, and why it, a lane or a key lane is parked: `k`, `k:<task>`,
-- `k:<task>,<key>`. Open lanes are in `lanes:<line>`, open key lanes in `keys:<line>,<task>`, by priority and tag; the jobs
-- of one in `lane:<line>,<task>,<key>`. Nothing of this is written later than it is read.

-- Why something is parked: until a time, by a cap of the tenant, queue, task, key, because its task is paused.
local UNTIL, BY_TENANT, BY_QUEUE, BY_TASK, BY_KEY, PAUSED = 'u', 'T', 'Q', 'K', 'H', 'P'
-- Priorities are worth so much in a score; what is below is a tag, or the arrival of a job.
local TAGS = 281474976710656
-- Bits (paused, exclusive, has a rate), the rate, concurrency.
local CONTROL = '<BI4I6I4I4'

-- What one script opens at most of what rates had parked.
local RATES_AT_ONCE = 100

-- Whether a line that opens is told of.
local telling = false

-- ---- controls

local controls, controlled = {}, {}

local function is_controlled(tenant)
  if controlled[tenant] == nil then controlled[tenant] = call('HEXISTS', P .. 'special', tenant) == 1 end
  return controlled[tenant]
end

local function opened_control(text)
  local bits, count, period, burst, concurrency = unpack_struct(CONTROL, text)
  local control = { paused = has(bits, 1), exclusive = has(bits, 2), concurrency = concurrency }
  if has(bits, 4) then control.rate = { count, period, burst } end
  return control
end

local function packed_control(control)
  local bits, rate = 0, control.rate or { 0, 0, 0 }
  if control.paused then bits = 1 end
  if control.exclusive then bits = bits + 2 end
  if control.rate then bits = bits + 4 end
  return pack(CONTROL, bits, rate[1], rate[2], rate[3], control.concurrency)
end

-- The control of a tenant ('t'), queue ('q:…') or task ('k:…'), or false. Whether a queue is paused is in its line.
local function control_of(tenant, scope)
  if not is_controlled(tenant) then return false end
  local name = tenant .. ',' .. scope
  if controls[name] == nil then
    local text = call('HGET', P .. 'control:' .. tenant, scope)
    controls[name] = text and opened_control(text)
  end
  return controls[name]
end

local function is_paused(line)
  if call('HGET', P .. 'queues:' .. line.tenant, line.queue .. ':p') == '1' then return true end
  local control = control_of(line.tenant, 't')
  return control and control.paused
end

-- ---- parks

local function hash_of(line)
  return P .. 'line:' .. line.name
end

-- Names a line, a lane or a key lane behind a prefix.
local function named(name, task, key)
  if not task then return name end
  if not key then return name .. ',' .. task end
  return name .. ',' .. task .. ',' .. key
end

local function park_field(task, key)
  return task and 'k:' .. named(task, key) or 'k'
end

-- The set of the queues in which something is parked by a cap.
local function blocked_by(why, tenant, task, key)
  if why == BY_TENANT then return P .. 'blocked:' .. tenant end
  if why == BY_TASK then return P .. 'blocked:' .. named(tenant, task) end
  if why == BY_KEY then return P .. 'blocked:' .. named(tenant, task, key) end
end

-- The line has lanes or is parked from now on.
local function mark(line)
  if line.marked then return end
  flush_indexes()
  call('HSET', P .. 'special', line.name, 1)
  line.special, line.marked, anything_special = true, true, true
end

-- Why it is parked may be known.
local function drop_park(line, task, key, why)
  local field = park_field(task, key)
  why = why or call('HGET', hash_of(line), field)
  if not why then return end
  call('HDEL', hash_of(line), field)
  if why == UNTIL then call('ZREM', P .. 'parked', named(line.name, task, key)) end
  local blocked = blocked_by(why, line.tenant, task, key)
  if blocked then call('SREM', blocked, line.queue) end
end

-- ---- what is open

-- Whether a line must be open; whether it is parked, has lanes, has plain jobs.
local function is_open(line)
  local v = call('HMGET', hash_of(line), 'k', 'n')
  local parked, lanes, plain = v[1], v[2], call('EXISTS', line.ready) == 1
  local has_next = plain or (lanes and call('EXISTS', P .. 'lanes:' .. line.name) == 1)
  return not parked and has_next and not is_paused(line), parked, lanes, plain
end

-- Opens or closes a line as it must be, and forgets what is over of it.
local function settle_line(line)
  local open, parked, lanes, plain = is_open(line)
  if parked and not lanes and not plain then
    drop_park(line)
    parked = false
  end
  local was = call('ZSCORE', line.fair, line.tenant)
  if open and not was then
    take_turn(line)
    if telling then ready_in[line.queue] = true end
  elseif was and not open then
    call('ZREM', line.fair, line.tenant)
  end
  line.active = false
  if not parked and not lanes then
    call('HDEL', P .. 'special', line.name)
    line.marked = false
  end
end

-- The same of a lane that has jobs; `tag` is its new one.
local function settle_lane(line, task, tag)
  local hash, lanes = hash_of(line), P .. 'lanes:' .. line.name
  local first = call('ZRANGE', P .. 'keys:' .. named(line.name, task), 0, 0, 'WITHSCORES')
  if not first[2] or call('HEXISTS', hash, park_field(task)) == 1 then
    call('ZREM', lanes, task)
  else
    if not tag then
      local score = call('ZSCORE', lanes, task)
      tag = score and score % TAGS or (call('HGET', hash, 'c') or 0) + 1
    end
    call('ZADD', lanes, first[2] - first[2] % TAGS + tag, task)
  end
  settle_line(line)
end

-- The last job of a key lane is gone; `lane_tag` is a new one.
local function forget_key(line, task, key, lane_tag)
  local hash = hash_of(line)
  call('ZREM', P .. 'keys:' .. named(line.name, task), key)
  drop_park(line, task, key)
  if call('HINCRBY', hash, 'n:' .. task, -1) > 0 then return settle_lane(line, task, lane_tag) end
  drop_park(line, task)
  call('ZREM', P .. 'lanes:' .. line.name, task)
  call('HDEL', hash, 'n:' .. task, 'c:' .. task)
  if call('HINCRBY', hash, 'n', -1) <= 0 then call('HDEL', hash, 'n', 'q', 'c', 'p') end
  settle_line(line)
end

-- The same of a key lane that has, or had, jobs; the tags are new ones.
local function settle_key(line, task, key, key_tag, lane_tag)
  local hash, keys = hash_of(line), P .. 'keys:' .. named(line.name, task)
  local first = call('ZRANGE', P .. 'lane:' .. named(line.name, task, key), 0, 0, 'WITHSCORES')
  if not first[2] then return forget_key(line, task, key, lane_tag) end
  if key ~= '' and call('HEXISTS', hash, park_field(task, key)) == 1 then
    call('ZREM', keys, key)
  else
    if not key_tag then
      local score = call('ZSCORE', keys, key)
      key_tag = score and score % TAGS or (call('HGET', hash, 'c:' .. task) or 0) + 1
    end
    call('ZADD', keys, first[2] - first[2] % TAGS + key_tag, key)
  end
  settle_lane(line, task, lane_tag)
end

-- ---- jobs in and out of lanes

local function insert(line, task, key, score, id)
  mark(line)
  local hash, jobs = hash_of(line), P .. 'lane:' .. named(line.name, task, key)
  local is_new = call('EXISTS', jobs) == 0
  if call('ZADD', jobs, score, id) == 1 then call('HINCRBY', hash, 'q', 1) end
  if is_new and call('HINCRBY', hash, 'n:' .. task, 1) == 1 then call('HINCRBY', hash, 'n', 1) end
  settle_key(line, task, key)
end

local function take_out(line, task, key, id, key_tag, lane_tag)
  if call('ZREM', P .. 'lane:' .. named(line.name, task, key), id) == 0 then return end
  call('HINCRBY', hash_of(line), 'q', -1)
  settle_key(line, task, key, key_tag, lane_tag)
end

local function opened_knobs(text)
  local v = { unpack_struct(KNOBS, text) }
  local knobs = { on_lost = v[2], has_limits = v[3] == 1, concurrency = v[7], key_concurrency = v[11], key = v[12],
    wins = v[13], for_ms = v[14], max_wait_ms = v[15], unique = v[16] }
  if v[4] > 0 then knobs.rate = { v[4], v[5], v[6] } end
  if v[8] > 0 then knobs.key_rate = { v[8], v[9], v[10] } end
  return knobs
end

local function knobs_of(member, flags)
  local text = has(flags, MORE) and call('GET', P .. 'more:' .. member)
  return text and opened_knobs(text)
end

local function task_in(fixed)
  local at = 2 + byte(fixed)
  return sub(fixed, at + 1, at + byte(fixed, at))
end

-- Queues a job in its lane, if it has one.
local function into_lane(member, r, line)
  local knobs = knobs_of(member, r[FLAGS])
  if not knobs or not knobs.has_limits then return false end
  r[FLAGS] = r[FLAGS] + LANED
  insert(line, task_in(r[FIXED]), knobs.key, r[SCORE], id_of(member))
  return true
end

-- Task and key of the lane of a job.
local function lane_of(member, r)
  local knobs = knobs_of(member, r[FLAGS])
  return task_in(r[FIXED]), knobs and knobs.has_limits and knobs.key or ''
end

-- The same; it is in none from now on.
local function out_of_lane(member, r)
  r[FLAGS] = r[FLAGS] - LANED
  return lane_of(member, r)
end

local function leave_lane(member, r, line)
  local task, key = out_of_lane(member, r)
  take_out(line, task, key, id_of(member))
end

-- ---- parking, and opening again

local function park(line, why, at, task, key)
  mark(line)
  call('HSET', hash_of(line), park_field(task, key), why)
  if why == UNTIL then call('ZADD', P .. 'parked', at, named(line.name, task, key)) end
  local blocked = blocked_by(why, line.tenant, task, key)
  if blocked then call('SADD', blocked, line.queue) end
  if key then
    settle_key(line, task, key)
  elseif task then
    settle_lane(line, task)
  else
    settle_line(line)
  end
end

-- Opens a line, lane or key lane that is parked for this reason, or for any; whether it was.
local function unpark(line, why, task, key)
  local found = call('HGET', hash_of(line), park_field(task, key))
  if not found or (why and found ~= why) then return false end
  drop_park(line, task, key, found)
  telling = true
  if key then
    settle_key(line, task, key)
  elseif task then
    settle_lane(line, task)
  else
    settle_line(line)
  end
  telling = false
  return true
end

local function settle_and_tell(line)
  telling = true
  settle_line(line)
  telling = false
end

-- Opens what a cap of the tenant, the task or the key had parked, in all queues.
local function unblock(why, tenant, task, key)
  local blocked = blocked_by(why, tenant, task, key)
  for _, queue in ipairs(call('SMEMBERS', blocked)) do
    if not unpark(line_of(tenant, queue), why, task, key) then call('SREM', blocked, queue) end
  end
end

local function count_running(name, more)
  if call('HINCRBY', P .. 'used', name, more) <= 0 then call('HDEL', P .. 'used', name) end
end

-- A job of a lane starts. The text is its record.
local function count_started(member, text)
  local r, tenant = opened(text), tenant_of(member)
  local task, key = out_of_lane(member, r)
  count_running(named(tenant, task), 1)
  if key ~= '' then count_running(named(tenant, task, key), 1) end
end

-- A delivery ended: opens what waited for its place. Without a record: of a plain job.
local function make_place(line, member, r)
  local tenant = line.tenant
  if r and r[FLAGS] >= LANED then
    local task, key = out_of_lane(member, r)
    count_running(named(tenant, task), -1)
    unblock(BY_TASK, tenant, task)
    if key ~= '' then
      count_running(named(tenant, task, key), -1)
      unblock(BY_KEY, tenant, task, key)
    end
  end
  if is_controlled(tenant) then
    unpark(line, BY_QUEUE)
    unblock(BY_TENANT, tenant)
  end
end

-- Opens at most `max` of what a rate had parked until now, and no more than some 2 ms allow: the rest is due at once.
-- Answers how many, and when the next one is to be opened, if one is.
local function open_rates(max)
  local due = call('ZRANGEBYSCORE', P .. 'parked', '-inf', now, 'LIMIT', 0, math.min(max, RATES_AT_ONCE))
  for _, name in ipairs(due) do
    local tenant, queue, task, key = string.match(name, '^([^,]*),([^,]*),?([^,]*),?([^,]*)$')
    unpark(line_of(tenant, queue), UNTIL, task ~= '' and task or nil, key ~= '' and key or nil)
    call('ZREM', P .. 'parked', name)
  end
  return #due, tonumber(call('ZRANGE', P .. 'parked', 0, 0, 'WITHSCORES')[2])
end

local m = {
  BY_TENANT = BY_TENANT, BY_QUEUE = BY_QUEUE, BY_TASK = BY_TASK, BY_KEY = BY_KEY, PAUSED = PAUSED, TAGS = TAGS, UNTIL = UNTIL,
  blocked_by = blocked_by, control_of = control_of, count_started = count_started, hash_of = hash_of, insert = insert,
  into_lane = into_lane, is_open = is_open, knobs_of = knobs_of, lane_of = lane_of, leave_lane = leave_lane,
  make_place = make_place, named = named, open_rates = open_rates, opened_control = opened_control,
  opened_knobs = opened_knobs, packed_control = packed_control, park = park, park_field = park_field,
  settle_and_tell = settle_and_tell, settle_key = settle_key, settle_line = settle_line, take_out = take_out, task_in = task_in,
  unblock = unblock, unpark = unpark,
}
