-- Sums of usage by tenant, hour and task. The rules are those of the broker's rules/usage.rs.
--
-- `meta:usage_v1:<tenant>,<hour>` is a hash (hours since the epoch): by task, and by '' of those that have no row of their own, a
-- sum, which is NUMBERS numbers of WIDTH bytes each, without the zeros at the end; a later release may have more of them. The sorted
-- set `meta:usage_hours_v1` has '<tenant>,<hour>' by hour. A step adds up what it adds, and writes it once at its end.
--
-- Settles and steps that take back leases of older releases add nothing.

-- Of a sum: succeeded, duration, fuel, CPU time, memory, failed, retried, other, lost, HTTP requests, bytes out, bytes in,
-- key-value operations, bytes of blobs read and written; as UsageSum::numbers() has them.
local NUMBERS, WIDTH = 15, 7
local SUCCEEDED, FAILED, RETRIED, OTHER, LOST = 1, 6, 7, 8, 9
-- Where the numbers of an attempt are in a sum.
local PLACES = { 2, 3, 4, 5, 10, 11, 12, 13, 14, 15 }
-- MAX_USAGE_SUM in the broker's contract.
local MAX = 9007199254740991
-- No usage: of a settle that records no attempt.
local NO_ATTEMPT = 255
-- Hours of tenants that one step deletes.
local MOST_HOURS = 100

-- Of this call: sums by tenant and task; tenants in the order in which they came, with their tasks in that order.
local sums, order
-- How many tasks of an hour have a row. The usage of the attempts that are settled; where that of the settle under way begins, how
-- many numbers it has, and where the next one begins.
local max_rows, given, at, count, next_at
-- The sum that was added to last, and whose it is.
local last_sum, last_tenant, last_task

resets[#resets + 1] = function()
  sums, order, max_rows, given, last_sum, last_tenant, last_task = {}, {}, nil, nil, nil, nil, nil
end

-- The task of a job, from the immutable part of its record.
function usage.task_in(fixed)
  local at = 2 + byte(fixed)
  return sub(fixed, at + 1, at + byte(fixed, at))
end

-- How many tasks have a row, for steps that add nothing but lost deliveries.
function usage.limit(rows)
  max_rows = tonumber(rows)
end

-- What the settles of this call used: the most rows, then for each of them how many numbers there are, or NO_ATTEMPT, and the
-- numbers.
function usage.give(packed)
  max_rows, next_at = unpack_struct('<I4', packed)
  given = packed
end

-- Goes on to the next settle; whether it records an attempt.
function usage.next()
  at, count = next_at + 1, byte(given, next_at)
  local is_attempt = count ~= NO_ATTEMPT
  next_at = is_attempt and at + count * WIDTH or at
  return is_attempt
end

local function sum_of(tenant, task)
  local tasks = sums[tenant]
  if not tasks then
    tasks = { order = {}, of = {} }
    sums[tenant], order[#order + 1] = tasks, tenant
  end
  local sum = tasks.of[task]
  if not sum then
    sum = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }
    tasks.of[task], tasks.order[#tasks.order + 1] = sum, task
  end
  return sum
end

-- Adds what the settle under way used, and counts its attempt at `how`. What exceeds MAX is cut off when it is written.
local function add(tenant, task, how)
  local sum = last_sum
  if task ~= last_task or tenant ~= last_tenant then
    sum = sum_of(tenant, task)
    last_sum, last_tenant, last_task = sum, tenant, task
  end
  sum[how] = sum[how] + 1
  if count == 4 then
    -- Most attempts use no more.
    local duration, fuel, cpu, memory = unpack_struct('<I7I7I7I7', given, at)
    sum[2], sum[3], sum[4], sum[5] = sum[2] + duration, sum[3] + fuel, sum[4] + cpu, sum[5] + memory
    return
  end
  for i = 1, count do
    local place = PLACES[i]
    sum[place] = sum[place] + unpack_struct('<I7', given, at + (i - 1) * WIDTH)
  end
end

function usage.succeeded(tenant, task)
  add(tenant, task, SUCCEEDED)
end

function usage.failed(tenant, task)
  add(tenant, task, FAILED)
end

function usage.retried(tenant, task)
  add(tenant, task, RETRIED)
end

function usage.other(tenant, task)
  add(tenant, task, OTHER)
end

-- A delivery was lost.
function usage.lost(tenant, task)
  local sum = sum_of(tenant, task)
  sum[LOST] = sum[LOST] + 1
end

-- A stored sum with another one added.
local function added_to(stored, sum)
  local out, last = {}, 0
  for i = 1, NUMBERS do
    local number = math.min(sum[i], MAX)
    if #stored >= i * WIDTH then number = math.min(number + unpack_struct('<I7', stored, 1 + (i - 1) * WIDTH), MAX) end
    if number > 0 then last = i end
    out[i] = pack('<I7', number)
  end
  local behind = sub(stored, 1 + NUMBERS * WIDTH)
  if #behind > 0 then last = NUMBERS end
  return table.concat(out, '', 1, last) .. behind
end

function usage.flush()
  if #order == 0 then return end
  local hour = string.format('%.0f', math.floor(now / 3600000))
  for _, tenant in ipairs(order) do
    local name, tasks = tenant .. ',' .. hour, sums[tenant]
    local key, rows = P .. 'meta:usage_v1:' .. name, nil
    for _, task in ipairs(tasks.order) do
      local row, stored = task, call('HGET', key, task)
      if not stored then
        -- The row without a name is none of a task.
        rows = rows or call('HLEN', key) - call('HEXISTS', key, '')
        if rows == 0 then call('ZADD', P .. 'meta:usage_hours_v1', hour, name) end
        if rows < max_rows then
          rows = rows + 1
        else
          row, stored = '', call('HGET', key, '')
        end
      end
      call('HSET', key, row, added_to(stored or '', tasks.of[task]))
    end
  end
  sums, order, last_sum, last_tenant, last_task = {}, {}, nil, nil, nil
end

local function hour_of(at)
  return math.floor(math.max(at, 0) / 3600000)
end

-- Deletes hours that are kept no longer; whether there may be more.
function usage.prune(retention_ms)
  local before = string.format('(%.0f', hour_of(now - retention_ms))
  local names = call('ZRANGEBYSCORE', P .. 'meta:usage_hours_v1', '-inf', before, 'LIMIT', 0, MOST_HOURS)
  for _, name in ipairs(names) do call('UNLINK', P .. 'meta:usage_v1:' .. name) end
  in_pieces('ZREM', P .. 'meta:usage_hours_v1', names)
  return #names == MOST_HOURS
end

-- Sums of hours.
-- ARGV[2] tenant   ARGV[3] the first hour   ARGV[4] the hour behind the last one   ARGV[5] a task, or '' for all
-- ARGV[6] rows after which no other hour begins   ARGV[7] how long hours are kept, milliseconds
-- Returns the hour with which to go on, or -1; then hour, task, sum, …: by hour, and in no order inside one.
-- Complexity: O(hours + rows).
register('usage', 'no-writes', function(args)
  local out, only, max = { -1 }, args[5], tonumber(args[6])
  local from, to = math.max(tonumber(args[3]), hour_of(now - args[7])), math.min(tonumber(args[4]), hour_of(now) + 1)
  for hour = from, to - 1 do
    local key = P .. 'meta:usage_v1:' .. args[2] .. ',' .. string.format('%.0f', hour)
    local rows
    if only == '' then
      rows = call('HGETALL', key)
    else
      local sum = call('HGET', key, only)
      rows = sum and { only, sum } or {}
    end
    for i = 1, #rows, 2 do
      local n = #out
      out[n + 1], out[n + 2], out[n + 3] = hour, rows[i], rows[i + 1]
    end
    if #out > 3 * max and hour + 1 < to then
      out[1] = hour + 1
      break
    end
  end
  return out
end)
