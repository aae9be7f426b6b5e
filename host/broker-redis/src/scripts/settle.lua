-- Ends deliveries, and claims more in the same step. Needs claiming.lua.
-- ARGV[3] max_log_lines   ARGV[4] a packed claim, or ''   ARGV[5…] one packed settle each, see FORMAT and records.rs
-- Returns { codes, member, record, [spec], … }: one letter per settle (R recorded, A already done, L lost), then the
--   deliveries.
-- Complexity: O(n log N): one GET and one SET per job; the indexes are written in one call each.

-- The logs follow.
local FORMAT = '<Bc0Bc0BI6I4c0I4c0I4c0I2'
local SUCCEED, FAIL, RETRY, SNOOZE, REVOKE, RELEASE = 0, 1, 2, 3, 4, 5
local ENDS = { [SUCCEED] = SUCCEEDED, [FAIL] = FAILED, [REVOKE] = REVOKED }
local max_log_lines = tonumber(ARGV[3])
local codes = {}
-- How FULL writes the four of them when they are empty.
local NOTHING_YET = string.rep('\0', 17)
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
  else
    r[DELIVERIES] = r[DELIVERIES] - 1
    enqueue(member, r, line)
  end
end

-- What most settles are: the first attempt of a job succeeded, and nothing else was said of it. Spliced instead of
-- unpacked and packed: half the time. True when it was done.
local function succeed_at_once(member, text, token, result, entry)
  -- No result, failure, progress or history yet: those are JSON and would not end in zeros.
  if byte(text, STATE) ~= RUNNING or sub(text, -17) ~= NOTHING_YET then return false end
  local ttl, _, current, _, _, queue = unpack_struct('<I6I6Bc0Bc0I4Bc0', text, 61)
  if current ~= token or #entry + 4 > HISTORY_INLINE then return false end
  local history = '\0\0\0\0\0'
  if #entry > 0 then history = pack('<BI4I4c0', 1, #entry + 4, #entry, entry) end
  call('SET', P .. 'job:' .. member, '\1\4' .. sub(text, 3, 40) .. FINISHED_NOW .. sub(text, 47, -18)
    .. pack('<I4c0I4I4', #result, result, 0, 0) .. history)
  zrem(P .. 'leases', member)
  local line = line_of(tenant_of(member), queue)
  line.running = line.running - 1
  keep_until(member, id_of(member), ttl)
  return true
end

local function settle(blob)
  local member, token, how, delay_ms, payload, entry, progress, logs, at = unpack_struct(FORMAT, blob)
  local text = call('GET', P .. 'job:' .. member)
  if not text then return 'L' end
  if how == SUCCEED and logs == 0 and progress == '' and succeed_at_once(member, text, token, payload, entry) then
    return 'R'
  end
  local r = { unpack_struct(FULL, text) }
  if r[TOKEN] ~= token then return 'L' end
  local state = r[STATE]
  if state ~= RUNNING then
    local follows
    if ENDS[how] then
      follows = state == ENDS[how]
    else
      follows = state ~= SUCCEEDED and state ~= FAILED
    end
    return follows and 'A' or 'L'
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

if #ARGV > 4 then allowed_when_full() end
for i = 5, #ARGV do codes[i - 4] = settle(ARGV[i]) end
flush()
local out = { table.concat(codes) }
if #ARGV[4] > 0 then
  claim(ARGV[4], out)
  flush()
end
tell()
return out
