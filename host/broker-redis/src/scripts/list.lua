-- Lists jobs, newest first, and reads those that fit. Needs canvas.lua and parts.lua.
-- ARGV[3] tenant   ARGV[4] 'jobs' or 'dead'   ARGV[5] only ids before this one, or ''   ARGV[6] max   ARGV[7] entries to
--   look at   ARGV[8] state or ''   ARGV[9] task or ''   ARGV[10] queue or ''
--   ARGV[11] worker of the last delivery or ''
-- Returns { next or '', and per job what append_job appends }.
-- Complexity: O(log N + entries looked at).

local tenant, max, scan = ARGV[3], tonumber(ARGV[6]), tonumber(ARGV[7])
local state, task, queue, worker = tonumber(ARGV[8]), ARGV[9], ARGV[10], ARGV[11]
local from = '+'
if #ARGV[5] > 0 then from = '(' .. ARGV[5] end
local ids = call('ZREVRANGEBYLEX', P .. ARGV[4] .. ':' .. tenant, from, '-', 'LIMIT', 0, scan)
local out, found, looked = { '' }, 0, 0
-- Head, then the length of the immutable part.
local NAMES = HEAD .. 'I4Bc0Bc0'

for _, id in ipairs(ids) do
  local member = tenant .. ',' .. id
  local text = call('GET', P .. 'job:' .. member)
  if text then
    local v = { unpack_struct(NAMES, text) }
    if (not state or v[STATE] == state) and (task == '' or v[21] == task) and (queue == '' or v[20] == queue)
      and (worker == '' or v[18] == worker) then
      found = found + 1
      append_job(out, member, text)
    end
  end
  looked = looked + 1
  if found == max or looked == scan then
    out[1] = id
    break
  end
end
return out
