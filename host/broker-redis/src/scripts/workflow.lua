-- Reads a workflow. Needs canvas.lua.
-- ARGV[3] its member
-- Returns { packed workflow, spec, template, … }, or nothing when none such was started.
-- Complexity: O(templates).

local member = ARGV[3]
local text = call('GET', P .. 'wf:' .. member)
if not text then return {} end
local v = { unpack_struct(canvas().WORKFLOW, text) }
if v[2] == canvas().STAGED or v[10] > 0 then return {} end
local out = { text, call('HGET', P .. 'wft:' .. member, 's') }
for first = 0, v[9] - 1, 1000 do
  local names = {}
  for index = first, math.min(first + 999, v[9] - 1) do names[#names + 1] = index end
  for _, template in ipairs(call('HMGET', P .. 'wft:' .. member, unpack(names))) do out[#out + 1] = template end
end
return out
