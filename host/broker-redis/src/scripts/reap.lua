-- Takes back expired leases. Needs canvas.lua.
-- ARGV[3] max   ARGV[4] failure of a job that has no delivery left, JSON text   ARGV[5] what stands in it for their number
-- Returns { requeued, buried, revoked }.
-- Complexity: O(m log N) for m leases taken back.

local lost = call('ZRANGEBYSCORE', P .. 'leases', '-inf', now, 'LIMIT', 0, tonumber(ARGV[3]))
local requeued, buried, revoked = 0, 0, 0

allowed_when_full()
for _, member in ipairs(lost) do
  local r = load(member)
  if r then
    local line = line_of(tenant_of(member), queue_in(r[FIXED]))
    leave(member, r, line)
    r[TOKEN] = ''
    -- As records.rs writes an attempt; a worker's name needs no escapes.
    local entry = string.format('[%.0f,%.0f,"%s",%.0f,"lost",0,0,0,null]', r[RETRIES] + 1, r[DELIVERIES], r[WORKER], now)
    remember(member, r, entry)
    if has(r[FLAGS], CANCEL) then
      finish(member, r, REVOKED)
      revoked = revoked + 1
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
return { requeued, buried, revoked }
