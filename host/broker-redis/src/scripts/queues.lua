-- The queues of a tenant.
-- ARGV[3] tenant
-- Returns, per queue, in no order: name, queued, running, delayed, dead, paused (0 or 1).
-- Complexity: O(number of queues).

local fields = call('HGETALL', P .. 'queues:' .. ARGV[3])
local seen, out = {}, {}
for i = 1, #fields, 2 do
  local queue, what = sub(fields[i], 1, -3), sub(fields[i], -1)
  local entry = seen[queue]
  if not entry then
    entry = {}
    seen[queue] = entry
  end
  entry[what] = tonumber(fields[i + 1])
end
for queue, entry in pairs(seen) do
  local n = #out
  local line = line_of(ARGV[3], queue)
  out[n + 1], out[n + 2] = queue, call('ZCARD', line.ready) + (call('HGET', P .. 'line:' .. line.name, 'q') or 0)
  out[n + 3], out[n + 4], out[n + 5] = entry.r, entry.d, tonumber(call('HGET', P .. 'deads:' .. ARGV[3], queue) or 0)
  out[n + 6] = entry.p
end
return out
