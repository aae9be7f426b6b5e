-- Opens what a rate had parked, queues what is due and ends what expired; cancels workflows at their deadline; goes on with the work list. Needs
-- rules and canvas.lua.
-- ARGV[3] max
-- Returns { moved, expired, opened, next_due }; next_due is -1 when nothing waits.
-- Complexity: O(m log N) for m jobs and workflows looked at, and that of advance().

local max = tonumber(ARGV[3])
local waiting = call('ZRANGE', P .. 'look', 0, max, 'WITHSCORES')
local late = call('ZRANGE', P .. 'deadlines', 0, max, 'WITHSCORES')
local moved, expired, opened, next_due = 0, 0, 0, -1

local function due_at(at)
  if next_due < 0 or at < next_due then next_due = at end
end

allowed_when_full()
if call('EXISTS', P .. 'parked') == 1 then
  local opens
  opened, opens = rules().open_rates(max)
  if opens then due_at(opens) end
end
for i = 1, #late, 2 do
  local at = tonumber(late[i + 1])
  if at > now or i > 2 * max then
    due_at(at)
    break
  end
  canvas().give_up(sub(late[i], 1, -7), EXPIRED)
end
for i = 1, #waiting, 2 do
  local member, at = waiting[i], tonumber(waiting[i + 1])
  if at > now or moved + expired == max then
    due_at(at)
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
advance()
flush()
if call('EXISTS', P .. 'todo') == 1 then due_at(now) end
tell()
return { moved, expired, opened, next_due }
