-- Stores jobs, each on its own. Needs idempotency.lua.
-- ARGV[3] max_backlog   ARGV[4] max_queues   ARGV[5…] one packed job each, see FORMAT and records.rs
-- Returns { codes, id… }: one letter per job (C created, E existing, X conflict, F queue full, Q too many queues,
--   N not dead); E and X take the next id.
-- Complexity: O(n log N). A plain job is one SET; the indexes are written in one call each.

local FORMAT = '<BBI4BI6I6I6I6Bc0Bc0I4c0I4c0I2c0I2c0I6Bc0'
local max_backlog, max_queues = tonumber(ARGV[3]), tonumber(ARGV[4])
local count = #ARGV - 4
-- The last arrival before these: they may use the next `count` numbers.
local seq = call('INCRBY', P .. 'seq', count) - count
local codes, ids = {}, { '' }

local function room(line)
  if not line.known then
    local queues = P .. 'queues:' .. line.tenant
    local delayed = call('HGET', queues, line.queue .. ':d')
    if not delayed then
      -- Every queue has three fields.
      if call('HLEN', queues) / 3 >= max_queues then return 'Q' end
      return nil
    end
    line.known, line.backlog = true, call('ZCARD', line.ready) + delayed
  end
  if line.backlog >= max_backlog then return 'F' end
end

local function answer(code, id)
  codes[#codes + 1] = code
  if id then ids[#ids + 1] = id end
end

local function submit(blob)
  local priority, flags, max_deliveries, start, start_ms, expires_ms, result_ttl, dead_ttl, member, queue, fixed, apart,
    idem_key, idem_body, idem_ttl, redrive = unpack_struct(FORMAT, blob)
  local tenant, id = tenant_of(member), id_of(member)
  local key = P .. 'job:' .. member
  local line = line_of(tenant, queue)
  if #idem_key > 0 or #redrive > 0 then
    if call('EXISTS', key) == 1 then return answer('E', id) end
    if #idem_key > 0 then
      local code, first = known(tenant, idem_key, idem_body)
      if code then return answer(code, first) end
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
  due = math.min(due, MAX_MS)
  local expires = 0
  if expires_ms > 0 then expires = math.min(now + expires_ms, MAX_MS) end
  local state, score = QUEUED, (9 - priority) * 281474976710656 + seq + 1
  if start == 0 or due <= now then due = 0 else state, score = SCHEDULED, 0 end
  local text = pack(FULL, 1, state, flags, priority, 0, 0, max_deliveries, now, expires, due, 0, 0, score, 0, result_ttl,
    dead_ttl, 0, '', 0, '', #fixed, fixed, 0, '', 0, '', 0, '', 0, 0, '')
  if not call('SET', key, text, 'NX') then return answer('E', id) end

  if #redrive > 0 then call('ZREM', P .. 'dead:' .. tenant, redrive) end
  if #idem_key > 0 then keep_key(tenant, idem_key, idem_body, idem_ttl, id) end
  if #apart > 0 then call('SET', P .. 'spec:' .. member, apart) end
  if not line.known then
    call('HSET', P .. 'queues:' .. tenant, queue .. ':r', 0, queue .. ':d', 0, queue .. ':p', 0)
    line.known, line.backlog = true, 0
  end
  line.backlog = line.backlog + 1
  zadd(P .. 'jobs:' .. tenant, '0', id)
  if state == QUEUED then
    seq = seq + 1
    zadd(line.ready, score, id)
    if expires > 0 then zadd(P .. 'look', expires, member) end
    activate(line)
    ready_in[queue] = true
  else
    if expires > 0 and expires < due then due = expires end
    zadd(P .. 'look', due, member)
    line.delayed = line.delayed + 1
  end
  codes[#codes + 1] = 'C'
end

for i = 5, #ARGV do submit(ARGV[i]) end
flush()
tell()
ids[1] = table.concat(codes)
return ids
