-- Changes what holds for a tenant, a queue or a task, and opens what was parked of it. Needs rules.
-- ARGV[3] tenant   ARGV[4] 't', 'q:<queue>' or 'k:<task>'   ARGV[5] paused, ARGV[6] exclusive: '1', '0' or '' to keep it
-- ARGV[7] rate: count, period and burst with spaces between, '-' for none, or '' to keep it   ARGV[8] concurrency, or '' to
--   keep it   ARGV[9] tasks of a tenant that may have one
-- Returns 'U' for a queue that is not known, 'F' when too many tasks have one, or 'S' and the packed control.
-- Complexity: O(queues of the tenant).

local tenant, scope = ARGV[3], ARGV[4]
local kind, name = sub(scope, 1, 1), sub(scope, 3)
local queues, key = P .. 'queues:' .. tenant, P .. 'control:' .. tenant
if kind == 'q' and call('HEXISTS', queues, name .. ':p') == 0 then return 'U' end
-- Also when there is no room: that is when somebody wants to stop a queue.
allowed_when_full()
local m = rules()
local stored = call('HGET', key, scope)
local control = stored and m.opened_control(stored) or { concurrency = 0 }
-- Also a queue without another control may be paused, so that is kept with its counts.
if kind == 'q' then control.paused = call('HGET', queues, name .. ':p') == '1' end

local function chosen(text, old)
  if text == '' then return old end
  return text == '1'
end
control.paused, control.exclusive = chosen(ARGV[5], control.paused), chosen(ARGV[6], control.exclusive)
if ARGV[7] == '-' then
  control.rate = nil
elseif ARGV[7] ~= '' then
  local count, period, burst = string.match(ARGV[7], '^(%d+) (%d+) (%d+)$')
  control.rate = { tonumber(count), tonumber(period), tonumber(burst) }
end
if ARGV[8] ~= '' then control.concurrency = tonumber(ARGV[8]) end

-- Whether as many tasks have one as may. They are counted only when there could be so many.
local function is_full(most)
  if call('HLEN', key) < most then return false end
  local count = 0
  for _, field in ipairs(call('HKEYS', key)) do
    if sub(field, 1, 2) == 'k:' then count = count + 1 end
  end
  return count >= most
end
local says_more = control.exclusive or control.rate or control.concurrency > 0
if says_more or (control.paused and kind ~= 'q') then
  if kind == 'k' and not stored and is_full(tonumber(ARGV[9])) then return 'F' end
  call('HSET', key, scope, m.packed_control(control))
  call('HSET', P .. 'special', tenant, 1)
elseif stored then
  call('HDEL', key, scope)
  if call('EXISTS', key) == 0 then call('HDEL', P .. 'special', tenant) end
end
if kind == 'q' then call('HSET', queues, name .. ':p', control.paused and '1' or '0') end

local function open(queue)
  local line = line_of(tenant, queue)
  if kind == 'k' then return m.unpark(line, nil, name) end
  m.unpark(line)
  m.settle_and_tell(line)
end
if kind == 'q' then
  open(name)
else
  for _, field in ipairs(call('HKEYS', queues)) do
    if sub(field, -2) == ':p' then open(sub(field, 1, -3)) end
  end
end
flush()
tell()
return 'S' .. m.packed_control(control)
