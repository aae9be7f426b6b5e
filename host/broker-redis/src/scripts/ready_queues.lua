-- Queues in which jobs of any tenant can be handed out.
-- ARGV[3] max
-- Returns their names in order.
-- Complexity: O(max), and as much for each queue that was emptied since the last time: those are forgotten here, because
--   emptying happens in the middle of claims, which have no time for it.

local key, max = P .. 'active_queues', tonumber(ARGV[3])
local ready, gone = {}, {}
local from = '-'
while #ready < max do
  local names = call('ZRANGEBYLEX', key, from, '+', 'LIMIT', 0, max)
  for _, name in ipairs(names) do
    if call('EXISTS', P .. 'fair:' .. name) == 0 then
      gone[#gone + 1] = name
    elseif #ready < max then
      ready[#ready + 1] = name
    end
  end
  if #names < max then break end
  from = '(' .. names[#names]
end
in_pieces('ZREM', key, gone)
return ready
