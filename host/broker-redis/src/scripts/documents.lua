-- Documents of a kind by name.
-- ARGV[3] '<tenant>,<kind>'   ARGV[4] '' or the name after which to begin, marked with '('   ARGV[5] max
-- Returns name, '<version> <body>', … in order.
-- Complexity: O(log N + max).

local from = ARGV[4]
if from == '' then from = '-' end
local out = {}
for _, name in ipairs(call('ZRANGEBYLEX', P .. 'docs:' .. ARGV[3], from, '+', 'LIMIT', 0, tonumber(ARGV[5]))) do
  local n = #out
  out[n + 1], out[n + 2] = name, call('HGET', P .. 'doc:' .. ARGV[3], name)
end
return out
