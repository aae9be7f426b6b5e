-- Ends deliveries, does what follows from that, and claims more in the same step. Needs limits.lua, canvas.lua,
-- claiming.lua, growing.lua and joining.lua.
-- ARGV[3…5] limits   ARGV[6] max_log_lines   ARGV[7] a packed claim, or ''   ARGV[8] 1 if a settle has a growth, or 0
--   ARGV[9…] one packed settle each, see FORMAT and records.rs
-- Returns { codes, … }: one letter per settle (R recorded, A already done, L lost, N refused), then the deliveries as
--   claiming.lua appends them.
-- Complexity: O(n log N): one GET and one SET per job; the indexes are written in one call each; and that of advance().

-- The growth is '' or as joining.lua reads it, or REFUSED when there can be no room for it. The logs follow.
local FORMAT = '<Bc0Bc0BI6I4c0I4c0I4c0I4c0I2'
local REFUSED = 'refused'
local SUCCEED, FAIL, RETRY, SNOOZE, REVOKE, RELEASE, REPLACE = 0, 1, 2, 3, 4, 5, 6
local ENDS = { [SUCCEED] = SUCCEEDED, [FAIL] = FAILED, [REVOKE] = REVOKED }
local max_log_lines = tonumber(ARGV[6])
local codes = {}
-- A full Redis lets jobs end, but takes no more of them. Looked at when a settle has a growth.
local is_full = false
local FINISHED_NOW = pack('<I6', now)

local function append_logs(member, blob, at, count)
  if count == 0 then return end
  local key = P .. 'log:' .. member
  local list = {}
  for i = 1, math.min(count, max_log_lines - call('LLEN', key)) do
    list[i], at = unpack_struct('<I4c0', blob, at)
  end
  in_pieces('RPUSH', key, list)
end

local function resolve(member, r, line, how, delay_ms, payload)
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
    delay(member, r, line, RETRYING, now + delay_ms)
  elseif how == SNOOZE then
    r[DELIVERIES] = 0
    delay(member, r, line, SCHEDULED, now + delay_ms)
  elseif how == REPLACE then
    r[STATE], r[FLAGS], r[RESULT] = WAITING, r[FLAGS] + REPLACED, payload
    tell_state(member, WAITING, r[FIXED], 1)
  else
    r[DELIVERIES] = r[DELIVERIES] - 1
    enqueue(member, r, line)
  end
end

-- What most settles are: the first attempt of a job succeeded, and nothing else was said of it. Spliced instead of
-- unpacked and packed: half the time. True when it was done.
local function succeed_at_once(member, text, token, result, entry)
  -- No result, failure, progress or history yet: those are JSON and would not end in zeros.
  local flags = byte(text, FLAGS)
  if byte(text, STATE) ~= RUNNING or flags >= MORE or sub(text, -17) ~= NOTHING_YET then return false end
  local ttl, _, current, _, _, queue, task = unpack_struct('<I6I6Bc0Bc0I4Bc0', text, 61)
  if current ~= token or #entry + 4 > HISTORY_INLINE then return false end
  local history = '\0\0\0\0\0'
  if #entry > 0 then history = pack('<BI4I4c0', 1, #entry + 4, #entry, entry) end
  call('SET', P .. 'job:' .. member, '\1\4' .. sub(text, 3, 40) .. FINISHED_NOW .. sub(text, 47, -18)
    .. pack('<I4c0I4I4', #result, result, 0, 0) .. history)
  zrem(P .. 'leases', member)
  local line = line_of(tenant_of(member), queue)
  line.running = line.running - 1
  if is_special(line) then rules().make_place(line) end
  tell_ended(member)
  tell_state(member, SUCCEEDED, text, task - 1 - #queue)
  if flags < NODE then
    zadd(P .. 'retain', now + ttl, member)
  else
    canvas().succeeded(member, text, task - 1 - #queue)
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
  if not text or is_damaged(text) then return 'L' end
  if how == SUCCEED and logs == 0 and progress == '' and growth == ''
    and succeed_at_once(member, text, token, payload, entry) then
    return 'R'
  end
  local r = opened(text)
  if r[TOKEN] ~= token then return 'L' end
  if r[STATE] ~= RUNNING then return could_have_followed(how, payload, r) and 'A' or 'L' end
  -- What was cancelled adds nothing as it goes.
  if growth ~= '' and (how == SUCCEED or not has(r[FLAGS], CANCEL)) then
    if is_full or growth == REFUSED or not canvas().grow(member, r, growth) then return 'N' end
  end
  if #progress > 0 then r[PROGRESS] = progress end
  append_logs(member, blob, at, logs)
  if #entry > 0 then remember(member, r, entry) end
  local line = line_of(tenant_of(member), queue_in(r[FIXED]))
  leave(member, r, line)
  resolve(member, r, line, how, delay_ms, payload)
  save(member, r)
  return 'R'
end

-- Must come first. It changes nothing.
if ARGV[8] == '1' then is_full = type(redis.pcall('INCRBY', P .. 'seq', 0)) == 'table' end
if #ARGV > 8 then allowed_when_full() end
for i = 9, #ARGV do codes[i - 8] = settle(ARGV[i]) end
advance()
local out = { table.concat(codes) }
if #ARGV[7] > 0 then
  flush_indexes()
  claim(ARGV[7], out)
end
flush()
tell()
return out
