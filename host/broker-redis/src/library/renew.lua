-- Renewal of leases.

-- Member, token, progress, number of log lines; those follow.
local FORMAT = '<Bc0Bc0I4c0I2'

local function renew(blob, lease, max_log_lines)
  local member, token, progress, logs, at = unpack_struct(FORMAT, blob)
  -- Longer than any head: 72 bytes, a token of 64, a worker of 128.
  local text = call('GETRANGE', P .. 'job:' .. member, 0, 279)
  if not is_readable(text) then return 'L' end
  local _, state, flags, _, _, _, _, _, _, _, _, _, _, _, _, _, current = unpack_struct(HEAD, text)
  if state ~= RUNNING or current ~= token then return 'L' end
  zadd(P .. 'leases', lease, member)
  append_logs(member, blob, at, logs, max_log_lines)
  if #progress > 0 then
    local r = load(member)
    r[PROGRESS] = progress
    save(member, r)
  end
  return has(flags, CANCEL) and not has(flags, LET_END) and 'C' or 'H'
end

-- Prolongs leases, keeps progress and log lines. Also when Redis is full: jobs that run must not be lost.
-- ARGV[2] max_log_lines   ARGV[3] lease_ms   ARGV[4…] one packed renewal each, see FORMAT and encode.rs
-- Returns one letter per renewal: H held, C held and cancelled, L lost.
-- Complexity: O(n log N). Without progress or logs one GETRANGE per job, and one ZADD in all.
register('renew', 'allow-oom', function(args)
  local lease, max_log_lines, codes = string.format('%.0f', now + tonumber(args[3])), tonumber(args[2]), {}
  for i = 4, #args do codes[i - 3] = renew(args[i], lease, max_log_lines) end
  flush()
  return table.concat(codes)
end)
