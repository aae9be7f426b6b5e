-- Lists workflows that replace no job, newest first. Needs canvas.lua.
-- ARGV[3] tenant   ARGV[4] only ids before this one, or ''   ARGV[5] max   ARGV[6] entries to look at   ARGV[7] state (as
--   WORKFLOW has it) or ''
-- Returns { next or '', id, packed workflow, spec, … }.
-- Complexity: O(log N + entries looked at).

local tenant, max, scan, state = ARGV[3], tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local from = '+'
if #ARGV[4] > 0 then from = '(' .. ARGV[4] end
local ids = call('ZREVRANGEBYLEX', P .. 'workflows:' .. tenant, from, '-', 'LIMIT', 0, scan)
local STAGED = canvas().STAGED
local out, found, looked = { '' }, 0, 0
for _, id in ipairs(ids) do
  local member = tenant .. ',' .. id
  local text = call('GET', P .. 'wf:' .. member)
  if text then
    local is_in = byte(text, 2)
    if is_in ~= STAGED and (not state or is_in == state) then
      found = found + 1
      local n = #out
      out[n + 1], out[n + 2], out[n + 3] = id, text, call('HGET', P .. 'wft:' .. member, 's')
    end
  end
  looked = looked + 1
  if found == max or looked == scan then
    out[1] = id
    break
  end
end
return out
