-- Schedules. The rules are those of the broker's rules/schedules.rs.
--
-- A schedule is a hash `meta:schedule_v1:<tenant>,<name>`: `v` version, `r` revision, `d` definition, `s` state, `l` when somebody
-- looks at it or '', `c` when it was made, `u` when it was defined, `n` the number of its last fire. The list
-- `meta:schedule_fires_v1:<tenant>,<name>` has its newest fires, the sorted set `meta:schedules_v1:<tenant>` the names in order,
-- `meta:schedules_due_v1` '<tenant>,<name>' by when somebody looks, and the hash `meta:schedule_revisions_v1` the last revision by
-- tenant. Texts are never read.

-- Of the broker's contract.
local MAX_FIRES, PAGE_SCAN = 100, 1000
-- Arguments of a step in front of its fires, and those that say what starts, by its kind.
local IN_FRONT, OF_START = 10, { [''] = 0, j = 4, w = 1 }

local function schedule_at(tenant, name)
  local full = tenant .. ',' .. name
  return { tenant = tenant, name = name, full = full, hash = P .. 'meta:schedule_v1:' .. full,
    fires = P .. 'meta:schedule_fires_v1:' .. full, names = P .. 'meta:schedules_v1:' .. tenant }
end

local function due_key() return P .. 'meta:schedules_due_v1' end

local function size_of(of)
  return #of.name + call('HSTRLEN', of.hash, 'd') + call('HSTRLEN', of.hash, 's')
end

-- Starts what a step starts. If that cannot be, the letter and the text of the answer.
local function start(kind, args, at)
  if kind == 'j' then
    local code, other = submission.one(args[at], args[at + 1], args[at + 2], args[at + 3])
    if code ~= 'C' and not (code == 'E' and other == args[at + 1]) then return 'J', code .. (other or '') end
  elseif kind == 'w' then
    local answer = new_workflows.start(args[at])
    if answer ~= 'C' and answer ~= 'E' .. id_of(args[at]) then return 'W', answer end
  end
end

-- Whether the next look at any schedule comes earlier when somebody is to look at one then, which was to be looked at at `before` or
-- ''. It cannot where it came no later than this one.
local function is_earlier(look, before)
  if before ~= '' and tonumber(before) <= tonumber(look) then return false end
  local first = call('ZRANGE', due_key(), 0, 0, 'WITHSCORES')[2]
  return not first or tonumber(look) < tonumber(first)
end

local function delete(of, bytes)
  call('DEL', of.hash, of.fires)
  call('ZREM', of.names, of.name)
  call('ZREM', due_key(), of.full)
  storage.add_schedule(of.tenant, 0 - bytes)
end

-- Does the step whose arguments begin at `at`, if it can be done: letter, number and text of the answer, and whether the next look
-- comes earlier.
local function step(args, at, max_schedules)
  local of, kind, look, fires = schedule_at(args[at], args[at + 1]), args[at + 4], args[at + 7], tonumber(args[at + 8])
  local found = call('HMGET', of.hash, 'r', 'v', 'l')
  local revision = tonumber(found[1] or 0)
  if tonumber(args[at + 2]) ~= revision or (revision == 0 and kind ~= 'n') then return 'L', revision, '' end
  if now < tonumber(args[at + 3]) then return 'T', now, '' end
  local old, new = 0, #args[at + 6]
  if kind == 'p' then
    -- The name and the definition stay.
    old = call('HSTRLEN', of.hash, 's')
  else
    old = found[1] and size_of(of) or 0
  end
  if kind == 'n' then
    new = new + #of.name + #args[at + 5]
    if not found[1] and call('ZCARD', of.names) >= max_schedules then return 'M', max_schedules, '' end
    if new > old and not storage.schedule_fits(of.tenant, new - old) then return 'F', 0, '' end
  end
  local letter, why = start(args[at + 9], args, at + IN_FRONT + fires)
  if letter then return letter, 0, why end

  local next = call('HINCRBY', P .. 'meta:schedule_revisions_v1', of.tenant, 1)
  local stored = string.format('%.0f', next)
  if kind == 'd' then
    delete(of, old)
    return 'S', 0, stored
  end
  local earlier = look ~= '' and is_earlier(look, found[3] or '')
  if look ~= '' then call('ZADD', due_key(), look, of.full) else call('ZREM', due_key(), of.full) end
  local version = tonumber(found[2] or 0)
  call('HSET', of.hash, 'r', next, 's', args[at + 6], 'l', look)
  if kind == 'n' then
    version = version + 1
    call('HSET', of.hash, 'v', version, 'd', args[at + 5], 'u', now)
  end
  if not found[1] then
    call('HSET', of.hash, 'c', now, 'n', 0)
    call('ZADD', of.names, 0, of.name)
  end
  if fires > 0 then
    call('RPUSH', of.fires, unpack(args, at + IN_FRONT, at + IN_FRONT - 1 + fires))
    if call('HINCRBY', of.hash, 'n', fires) > MAX_FIRES then call('LTRIM', of.fires, 0 - MAX_FIRES, -1) end
  end
  storage.add_schedule(of.tenant, new - old)
  return 'S', version, stored, earlier
end

-- Does steps, each on its own and in order.
-- ARGV[2] most schedules of a tenant   ARGV[3…6] as ARGV[2…5] of `submit`   ARGV[7] how many steps start a job
-- ARGV[8…] per step: tenant, name, revision, not before, kind ('n' put with a new definition, 'p' put, 'd' delete), definition,
--   state, when to look or '', how many fires, what starts ('' nothing, 'j' a job, 'w' a workflow); the fires; of a job its group
--   (see GROUP), id, second piece and details or '', of a workflow its member
-- Returns { letter, number, text, … } per step: S done (version, revision), L stale (revision), T too early (now), M too many (most),
--   F too many bytes of the tenant, J no job (its answer as `submit` has it), W no workflow (as `start_workflow` has it).
-- Complexity: O(log N) and the bytes of the texts, and what `submit` and `start_workflow` take.
local function steps(args)
  local max_schedules, out, n, at, is_told = tonumber(args[2]), {}, 0, 8, false
  if args[7] ~= '0' then submission.begin(args[3], args[4], args[5], args[6], tonumber(args[7])) end
  while at <= #args do
    local letter, number, text, earlier = step(args, at, max_schedules)
    out[n + 1], out[n + 2], out[n + 3], n, is_told = letter, number, text, n + 3, is_told or earlier
    at = at + IN_FRONT + args[at + 8] + OF_START[args[at + 9]]
  end
  flush()
  notify()
  -- A hint may be lost, as those of `notify` may.
  if is_told then redis.pcall('PUBLISH', P .. 'schedules', '') end
  return out
end
register('schedule_steps', '', steps)
-- Deleting makes room, so a full Redis lets it be.
register('delete_schedules', 'allow-oom', steps)

-- What is stored of a schedule: name, version, revision, definition, state, when somebody looks, when it was made and defined, and
-- the number of its last fire; and how many bytes count for a page. Nothing when there is none, or something of it is missing.
local function read(of)
  -- A key that is no hash is an error, which has none of the fields: it is as one that is not there.
  local it = redis.pcall('HMGET', of.hash, 'v', 'r', 'd', 's', 'l', 'c', 'u', 'n')
  for i = 1, 8 do
    if not it[i] then return end
  end
  return { of.name, unpack(it) }, #of.name + #it[3] + #it[4]
end

-- One schedule.
-- ARGV[2] tenant   ARGV[3] name
-- Returns what `read` says of it, or nothing.
-- Complexity: O(1), and the bytes of its texts.
register('schedule', 'no-writes', function(args)
  return read(schedule_at(args[2], args[3])) or {}
end)

-- Schedules by name. The one that reaches PAGE_BYTES of names and texts, or is the PAGE_SCAN-th, is the last of the page.
-- ARGV[2] tenant   ARGV[3], ARGV[4] where to begin and to end, as ZRANGEBYLEX has it   ARGV[5] max
-- Returns { the name after which the next page begins or '', { what `read` says of one }, … }.
-- Complexity: O(log N + PAGE_SCAN), and the bytes of the page.
register('schedules', 'no-writes', function(args)
  local tenant, max, out, bytes = args[2], tonumber(args[5]), { '' }, 0
  local names = call('ZRANGEBYLEX', P .. 'meta:schedules_v1:' .. tenant, args[3], args[4], 'LIMIT', 0, PAGE_SCAN)
  for i, name in ipairs(names) do
    local schedule, size = read(schedule_at(tenant, name))
    if schedule then
      out[#out + 1], bytes = schedule, bytes + size
    end
    if #out > max or bytes >= PAGE_BYTES or i == PAGE_SCAN then
      out[1] = name
      break
    end
  end
  return out
end)

-- Schedules at which somebody is to look, earliest first. The one that reaches PAGE_BYTES of names and texts is the last. One that
-- is gone, or has no tenant, or whose hash is not whole, leaves the set: nobody is to look for it for ever. An audit finds it.
-- ARGV[2] max, at most PAGE_SCAN
-- Returns { now, the earliest look of all others or '', { tenant, what `read` says of one }, … }.
-- Complexity: O(log N + max), and the bytes of the schedules.
register('due_schedules', 'allow-oom', function(args)
  local max, key, out, taken, bytes = tonumber(args[2]), due_key(), { string.format('%.0f', now), '' }, 0, 0
  local due = max > 0 and call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, max) or {}
  for _, full in ipairs(due) do
    local tenant, name = string.match(full, '^([^,]*),(.*)$')
    local schedule, size
    if tenant then schedule, size = read(schedule_at(tenant, name)) end
    if schedule then
      out[#out + 1], taken, bytes = { tenant, unpack(schedule) }, taken + 1, bytes + size
    else
      call('ZREM', key, full)
    end
    if bytes >= PAGE_BYTES then break end
  end
  out[2] = call('ZRANGE', key, taken, taken, 'WITHSCORES')[2] or ''
  return out
end)

-- The history of a schedule.
-- ARGV[2] tenant   ARGV[3] name   ARGV[4] number before which to begin, or ''   ARGV[5] max
-- Returns { number of the last one that is answered, text, … }, oldest first.
-- Complexity: O(max + MAX_FIRES).
register('fires', 'no-writes', function(args)
  local of, max = schedule_at(args[2], args[3]), tonumber(args[5])
  local last, kept = tonumber(call('HGET', of.hash, 'n') or 0), call('LLEN', of.fires)
  local first, to = last - kept + 1, last
  if args[4] ~= '' then to = math.min(to, tonumber(args[4]) - 1) end
  local from = math.max(first, to - max + 1)
  if from > to then return { 0 } end
  return { to, unpack(call('LRANGE', of.fires, from - first, to - first)) }
end)

-- The bytes of a schedule by its full name, and its tenant.
function schedules.measure(full)
  local of = schedule_at(string.match(full, '^([^,]*),(.*)$'))
  return of.tenant, call('EXISTS', of.hash) == 1 and size_of(of) or 0
end

-- What is wrong with a schedule, for an audit: `found` is told of it and of how it is mended.
function schedules.look_at(full, found)
  local of = schedule_at(string.match(full, '^([^,]*),(.*)$'))
  if call('EXISTS', of.hash) == 0 then return end
  local it, size = read(of)
  if not it then
    return found('schedule that cannot be read', full, function() delete(of, size_of(of)) end)
  end
  if not call('ZSCORE', of.names, of.name) then
    found('schedule that no list has', full, function() call('ZADD', of.names, 0, of.name) end)
  end
  local look, due = it[6], call('ZSCORE', due_key(), full)
  if look ~= '' and tonumber(due or '') ~= tonumber(look) then
    found('schedule at which nobody looks at its time', full, function() call('ZADD', due_key(), look, full) end)
  end
  local revisions, given = P .. 'meta:schedule_revisions_v1', tonumber(it[3])
  if given > tonumber(call('HGET', revisions, of.tenant) or 0) then
    found('revision of a schedule that was not given', full, function() call('HSET', revisions, of.tenant, given) end)
  end
  local kept = call('LLEN', of.fires)
  if kept > tonumber(it[9]) then
    found('fire that is none of its schedule', full, function() call('HSET', of.hash, 'n', kept) end)
  end
end

function schedules.look_at_fires(full, found)
  local of = schedule_at(string.match(full, '^([^,]*),(.*)$'))
  if call('EXISTS', of.fires) == 0 or call('EXISTS', of.hash) == 1 then return end
  found('fires of a schedule that is gone', full, function() call('DEL', of.fires) end)
end

-- Whether there is a schedule; with `timed` one at which somebody is to look.
function schedules.is_there(full, timed)
  local look = call('HGET', P .. 'meta:schedule_v1:' .. full, 'l')
  return look and (not timed or look ~= '')
end
