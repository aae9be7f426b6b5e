-- Reads jobs with what is kept apart from their records.
-- ARGV[3…] members
-- Returns, per job that exists: member, record, [spec], [list of attempts].
-- Complexity: O(n).

local out = {}
for i = 3, #ARGV do
  local member = ARGV[i]
  local text = call('GET', P .. 'job:' .. member)
  if text then
    out[#out + 1], out[#out + 2] = member, text
    local flags = byte(text, FLAGS)
    if has(flags, SPEC_APART) then out[#out + 1] = call('GET', P .. 'spec:' .. member) or '' end
    if has(flags, HISTORY_APART) then out[#out + 1] = call('LRANGE', P .. 'history:' .. member, 0, -1) end
  end
end
return out
