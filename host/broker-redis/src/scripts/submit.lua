-- Stores jobs, each on its own. Needs rules and idempotency.lua, and canvas.lua when there is a
-- work list.
-- ARGV[3] max_backlog   ARGV[4] max_queues   ARGV[5] failure of a job whose place was taken, JSON text   ARGV[6] what stands
--   in it for the other's id   ARGV[7…] one packed job each, see FORMAT and records.rs
-- Returns { codes, id… }: one letter per job (C created, E existing, X conflict, F queue full, Q too many queues,
--   N not dead, D duplicate); E, X and D take the next id. 'W' alone, and nothing is done, when canvas.lua is
--   needed.
-- Complexity: O(n log N). A plain job is one SET; the indexes are written in one call each.

local FORMAT = '<BBI4BI6I6I6I6I6Bc0Bc0I4c0I4c0I2c0I2c0I6Bc0I2c0'
-- The work list is gone on with by every step. That needs canvas.lua, which most submissions can do without.
local has_work = call('EXISTS', P .. 'todo') == 1
if has_work and not canvas then return { 'W' } end
local max_backlog, max_queues = tonumber(ARGV[3]), tonumber(ARGV[4])
local count = #ARGV - 6
-- The last arrival before these: they may use the next `count` numbers.
local seq
local function reserve()
  seq = call('INCRBY', P .. 'seq', count) - count
end
reserve()
local codes, ids = {}, { '' }

local function room(line)
  if not line.counted then
    local queues = P .. 'queues:' .. line.tenant
    local delayed = call('HGET', queues, line.queue .. ':d')
    if not delayed then
      -- Every queue has three fields.
      if call('HLEN', queues) / 3 >= max_queues then return 'Q' end
      return nil
    end
    line.known, line.counted = true, true
    local laned = is_special(line) and call('HGET', P .. 'line:' .. line.name, 'q') or 0
    line.backlog = call('ZCARD', line.ready) + laned + delayed + line.delayed
  end
  if line.backlog >= max_backlog then return 'F' end
end

local function answer(code, id)
  codes[#codes + 1] = code
  if id then ids[#ids + 1] = id end
end

-- Jobs came and went in other ways than these.
local function count_again()
  flush_indexes()
  for _, line in pairs(lines) do line.counted = false end
end

-- Gives a new job its unique key, and ends the one whose place it takes. Since when they take each other's, and that place.
local function take_place(tenant, id, knobs, queue, priority)
  local failure = (string.gsub(ARGV[5], ARGV[6], id))
  local since, took, place = rules().take_place(tenant, id, knobs, failure, queue, priority)
  if took then count_again() end
  return since, place
end

local function submit(blob)
  local priority, flags, max_deliveries, start, start_ms, expires_ms, expires_at, result_ttl, dead_ttl, member, queue, fixed,
    apart, idem_key, idem_body, idem_ttl, redrive, more = unpack_struct(FORMAT, blob)
  local tenant, id = tenant_of(member), id_of(member)
  local key = P .. 'job:' .. member
  local line = line_of(tenant, queue)
  local knobs = #more > 0 and rules().opened_knobs(more)
  if #idem_key > 0 or #redrive > 0 or knobs then
    if call('EXISTS', key) == 1 then return answer('E', id) end
    if #idem_key > 0 then
      local code, first = known(tenant, idem_key, idem_body)
      if code then return answer(code, first) end
    end
    local first = knobs and rules().first_of_its_like(tenant, knobs)
    if first then
      if #idem_key > 0 then keep_key(tenant, idem_key, idem_body, idem_ttl, first) end
      return answer('D', first)
    end
    if #redrive > 0 and not call('ZSCORE', P .. 'dead:' .. tenant, redrive) then return answer('N') end
  end
  local refusal = room(line)
  if refusal then
    if call('EXISTS', key) == 1 then return answer('E', id) end
    return answer(refusal)
  end

  local due = start_ms
  if start == 1 then due = now + start_ms end
  local place
  if knobs and knobs.wins > 0 then
    local since
    since, place = take_place(tenant, id, knobs, queue, priority)
    if start == 1 and knobs.wins == 2 and knobs.max_wait_ms > 0 then due = math.min(due, since + knobs.max_wait_ms) end
  end
  due = math.min(due, MAX_MS)
  local expires = 0
  if expires_ms > 0 then expires = math.min(now + expires_ms, MAX_MS) end
  if expires_at > 0 and (expires == 0 or expires_at < expires) then expires = expires_at end
  local state, score = QUEUED, (9 - priority) * 281474976710656 + seq + 1
  if start == 0 or due <= now then due, score = 0, place or score else state, score = SCHEDULED, 0 end
  local laned = state == QUEUED and knobs and knobs.has_limits
  if laned then flags = flags + LANED end
  local text = pack(FULL, 1, state, flags, priority, 0, 0, max_deliveries, now, expires, due, 0, 0, score, 0, result_ttl,
    dead_ttl, 0, '', 0, '', #fixed, fixed, 0, '', 0, '', 0, '', 0, 0, '')
  if not call('SET', key, text, 'NX') then return answer('E', id) end

  if #redrive > 0 then rules().leave_dead(tenant, redrive) end
  if #more > 0 then call('SET', P .. 'more:' .. member, more) end
  if #idem_key > 0 then keep_key(tenant, idem_key, idem_body, idem_ttl, id) end
  if #apart > 0 then call('SET', P .. 'spec:' .. member, apart) end
  if not line.known then
    call('HSET', P .. 'queues:' .. tenant, queue .. ':r', 0, queue .. ':d', 0, queue .. ':p', 0)
    line.known, line.counted, line.backlog = true, true, 0
  end
  line.backlog = line.backlog + 1
  zadd(P .. 'jobs:' .. tenant, '0', id)
  tell_state(member, state, fixed, 1)
  if state == QUEUED then
    seq = seq + 1
    if expires > 0 then zadd(P .. 'look', expires, member) end
    if laned then
      rules().insert(line, rules().task_in(fixed), knobs.key, score, id)
      ready_in[queue] = true
    else
      put_ready(line, score, id)
    end
  else
    if expires > 0 and expires < due then due = expires end
    zadd(P .. 'look', due, member)
    line.delayed = line.delayed + 1
  end
  codes[#codes + 1] = 'C'
  if has_work then
    advance()
    count_again()
    has_work = false
    -- What has become ready was there before the jobs that follow.
    reserve()
  end
end

for i = 7, #ARGV do submit(ARGV[i]) end
flush()
tell()
ids[1] = table.concat(codes)
return ids
