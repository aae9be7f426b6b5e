-- Settling: the end of deliveries.

-- The growth is '' or as joining.lua reads it, or REFUSED when there can be no room for it. The logs follow.
local FORMAT = '<Bc0Bc0BI6I4c0I4c0I4c0I4c0I2'
local REFUSED = 'refused'
local SUCCEED, FAIL, RETRY, SNOOZE, REVOKE, RELEASE, REPLACE = 0, 1, 2, 3, 4, 5, 6
local ENDS = { [SUCCEED] = SUCCEEDED, [FAIL] = FAILED, [REVOKE] = REVOKED }
-- Of this call: most log lines of a job, the time as a record has it, and whether growths are stored.
local max_log_lines, finished_now, may_grow

local function resolve(member, r, tq, how, delay_ms, payload)
  if how == SUCCEED then
    r[RESULT], r[FAILURE] = payload, ''
    finish(member, r, SUCCEEDED)
  elseif how == FAIL then
    r[FAILURE] = payload
    finish(member, r, FAILED)
  elseif how == REVOKE or has(r[FLAGS], CANCEL) then
    -- What was cancelled does not come back.
    finish(member, r, REVOKED)
  elseif how == RETRY then
    r[FAILURE], r[RETRIES], r[DELIVERIES] = payload, r[RETRIES] + 1, 0
    delay(member, r, tq, RETRYING, now + delay_ms)
  elseif how == SNOOZE then
    r[DELIVERIES] = 0
    delay(member, r, tq, SCHEDULED, now + delay_ms)
  elseif how == REPLACE then
    r[STATE], r[FLAGS], r[RESULT] = WAITING, r[FLAGS] + REPLACED, payload
    add_event(member, WAITING, r[FIXED], 1)
  else
    r[DELIVERIES] = r[DELIVERIES] - 1
    enqueue(member, r, tq)
  end
end

-- What most settles are: the first attempt of a job succeeded, and nothing else was said of it. Spliced instead of
-- unpacked and packed: half the time. True when it was done.
local function succeed_at_once(member, text, token, result, entry)
  -- No result, failure, progress or history yet: those are JSON and would not end in zeros.
  local flags = byte(text, FLAGS)
  if byte(text, STATE) ~= RUNNING or flags >= HAS_OPTIONS or sub(text, -17) ~= NOTHING_YET then return false end
  local ttl, _, current, _, _, queue, task = unpack_struct('<I6I6Bc0Bc0I4Bc0', text, 61)
  if current ~= token or #entry + 4 > HISTORY_INLINE then return false end
  local history = '\0\0\0\0\0'
  if #entry > 0 then history = pack('<BI4I4c0', 1, #entry + 4, #entry, entry) end
  call('SET', P .. 'job:' .. member, '\1\4' .. sub(text, 3, 40) .. finished_now .. sub(text, 47, -18)
    .. pack('<I4c0I4I4', #result, result, 0, 0) .. history)
  zrem(P .. 'leases', member)
  local tq = tenant_queue_of(tenant_of(member), queue)
  tq.running = tq.running - 1
  if is_special(tq) then sub_queues.release_capacity(tq) end
  notify_ended(member)
  add_event(member, SUCCEEDED, text, task - 1 - #queue)
  if flags < NODE then
    zadd(P .. 'retain', now + ttl, member)
  else
    workflows.succeeded(member, text, task - 1 - #queue)
  end
  return true
end

-- Whether a settle that comes again with its token could have led to what the job is now.
local function could_have_followed(how, payload, r)
  local state = r[STATE]
  if ENDS[how] then return state == ENDS[how] end
  if how == REPLACE then return state == REVOKED or (has(r[FLAGS], REPLACED) and r[RESULT] == payload) end
  return state ~= SUCCEEDED and state ~= FAILED and state ~= WAITING
end

local function settle(blob)
  local member, token, how, delay_ms, payload, entry, progress, growth, logs, at = unpack_struct(FORMAT, blob)
  local text = call('GET', P .. 'job:' .. member)
  if not text or not is_readable(text) then return 'L' end
  if how == SUCCEED and logs == 0 and progress == '' and growth == ''
    and succeed_at_once(member, text, token, payload, entry) then
    return 'R'
  end
  local r = opened(text)
  if r[TOKEN] ~= token then return 'L' end
  if r[STATE] ~= RUNNING then return could_have_followed(how, payload, r) and 'A' or 'L' end
  -- What was cancelled adds nothing as it goes.
  if growth ~= '' and (how == SUCCEED or not has(r[FLAGS], CANCEL)) then
    if not may_grow or growth == REFUSED or not workflows.grow(member, r, growth) then return 'N' end
  end
  if #progress > 0 then r[PROGRESS] = progress end
  append_logs(member, blob, at, logs, max_log_lines)
  if #entry > 0 then remember(member, r, entry) end
  local tq = tenant_queue_of(tenant_of(member), queue_in(r[FIXED]))
  leave(member, r, tq)
  resolve(member, r, tq, how, delay_ms, payload)
  save(member, r)
  return 'R'
end

-- Ends deliveries, does what follows from that, and claims more in the same step.
-- ARGV[2…4] limits   ARGV[5] max_log_lines   ARGV[6] a packed claim, or ''   ARGV[7…] one packed settle each, see FORMAT and
--   encode.rs
-- Returns { codes, … }: one letter per settle (R recorded, A already done, L lost, N no capacity), then the deliveries as
--   claim() appends them.
-- Complexity: O(n log N): one GET and one SET per job; the indexes are written in one call each; and that of work.advance().
local function run(args)
  new_workflows.limit(args)
  max_log_lines, finished_now = tonumber(args[5]), pack('<I6', now)
  local codes = {}
  for i = 7, #args do codes[i - 6] = settle(args[i]) end
  work.advance()
  local out = { table.concat(codes) }
  if #args[6] > 0 then
    flush_indexes()
    claim(args[6], out)
  end
  flush()
  notify()
  return out
end

-- A full Redis lets jobs end, but takes no more of them: `settle_growing` is refused then, and `settle` refuses what is added.
register('settle', 'allow-oom', function(args)
  may_grow = false
  return run(args)
end)
register('settle_growing', '', function(args)
  may_grow = true
  return run(args)
end)
