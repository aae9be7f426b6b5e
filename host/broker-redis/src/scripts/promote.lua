-- Queues what is due and ends what expired.
-- ARGV[3] max
-- Returns { moved, expired, next_due }; next_due is -1 when nothing waits.
-- Complexity: O(m log N) for m jobs looked at.

local max = tonumber(ARGV[3])
local waiting = call('ZRANGE', P .. 'look', 0, max, 'WITHSCORES')
local moved, expired, next_due = 0, 0, -1

allowed_when_full()
for i = 1, #waiting, 2 do
  local member, at = waiting[i], tonumber(waiting[i + 1])
  if at > now or moved + expired == max then
    next_due = at
    break
  end
  local r = load(member)
  if r then
    local line = line_of(tenant_of(member), queue_in(r[FIXED]))
    leave(member, r, line)
    if r[EXPIRES] > 0 and r[EXPIRES] <= now then
      finish(member, r, EXPIRED)
      expired = expired + 1
    else
      r[SCORE] = new_score(r[PRIORITY])
      enqueue(member, r, line)
      moved = moved + 1
    end
    save(member, r)
  else
    zrem(P .. 'look', member)
  end
end
flush()
tell()
return { moved, expired, next_due }
