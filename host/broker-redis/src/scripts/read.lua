-- Reads jobs with what is kept apart from their records. Needs canvas.lua and parts.lua.
-- ARGV[3…] members
-- Returns, per job that exists, what append_job appends.
-- Complexity: O(n).

local out = {}
for i = 3, #ARGV do
  local member = ARGV[i]
  local text = call('GET', P .. 'job:' .. member)
  if text then append_job(out, member, text) end
end
return out
