-- Prolongs leases, keeps progress and log lines.
-- ARGV[3] max_log_lines   ARGV[4] lease_ms   ARGV[5…] one packed renewal each, see FORMAT and records.rs
-- Returns one letter per renewal: H held, C held and cancelled, L lost.
-- Complexity: O(n log N). Without progress or logs one GETRANGE per job, and one ZADD in all.

local FORMAT = '<Bc0Bc0I4c0I2'
local max_log_lines = tonumber(ARGV[3])
local lease = string.format('%.0f', now + tonumber(ARGV[4]))
local codes = {}

local function renew(blob)
  local member, token, progress, logs, at = unpack_struct(FORMAT, blob)
  -- Longer than any head: 72 bytes, a token of 64, a worker of 128.
  local text = call('GETRANGE', P .. 'job:' .. member, 0, 279)
  if not is_readable(text) then return 'L' end
  local _, state, flags, _, _, _, _, _, _, _, _, _, _, _, _, _, current = unpack_struct(HEAD, text)
  if state ~= RUNNING or current ~= token then return 'L' end
  zadd(P .. 'leases', lease, member)
  if #progress > 0 then
    local r = load(member)
    r[PROGRESS] = progress
    save(member, r)
  end
  if logs > 0 then
    local key, list = P .. 'log:' .. member, {}
    for i = 1, math.min(logs, max_log_lines - call('LLEN', key)) do
      list[i], at = unpack_struct('<I4c0', blob, at)
    end
    in_pieces('RPUSH', key, list)
  end
  return has(flags, CANCEL) and not has(flags, LET_END) and 'C' or 'H'
end

-- Jobs that run must not be lost because new ones do not fit.
allowed_when_full()
for i = 5, #ARGV do codes[i - 4] = renew(ARGV[i]) end
flush()
return table.concat(codes)
