-- Takes back expired leases. Needs rules and canvas.lua.
-- ARGV[3] max   ARGV[4] failure of a job that has no delivery left, JSON text   ARGV[5] what stands in it for their number
-- ARGV[6] failure of a job that may run only once, JSON text
-- Returns { requeued, buried, revoked, failed }.
-- Complexity: O(m log N) for m leases taken back.

local lost = call('ZRANGEBYSCORE', P .. 'leases', '-inf', now, 'LIMIT', 0, tonumber(ARGV[3]))
local requeued, buried, revoked, failed = 0, 0, 0, 0
local DEAD, FAIL = 1, 2

allowed_when_full()
for _, member in ipairs(lost) do
  local r = load(member)
  if r then
    local line = line_of(tenant_of(member), queue_in(r[FIXED]))
    local knobs = r[FLAGS] >= MORE and rules().knobs_of(member, r[FLAGS])
    local on_lost = knobs and knobs.on_lost
    leave(member, r, line)
    r[TOKEN] = ''
    -- As records.rs writes an attempt; a worker's name needs no escapes.
    local entry = string.format('[%.0f,%.0f,"%s",%.0f,"lost",0,0,0,null]', r[RETRIES] + 1, r[DELIVERIES], r[WORKER], now)
    remember(member, r, entry)
    if has(r[FLAGS], CANCEL) then
      finish(member, r, REVOKED)
      revoked = revoked + 1
    elseif on_lost == DEAD or on_lost == FAIL then
      r[FAILURE] = ARGV[6]
      finish(member, r, FAILED, on_lost == DEAD)
      if on_lost == DEAD then buried = buried + 1 else failed = failed + 1 end
    elseif r[DELIVERIES] >= r[MAX_DELIVERIES] then
      r[FAILURE] = string.gsub(ARGV[4], ARGV[5], string.format('%.0f', r[DELIVERIES]))
      finish(member, r, FAILED)
      buried = buried + 1
    else
      -- Lost again, it goes to the end: it must not meet the same others in front of the line for ever.
      if r[DELIVERIES] >= 2 then r[SCORE] = new_score(r[PRIORITY]) end
      enqueue(member, r, line)
      requeued = requeued + 1
    end
    save(member, r)
  else
    zrem(P .. 'leases', member)
  end
end
advance()
flush()
tell()
return { requeued, buried, revoked, failed }
