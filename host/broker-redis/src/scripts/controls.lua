-- What was set of a tenant.
-- ARGV[3] tenant
-- Returns scope and packed control, one after the other, in no order; then the paused queues, each as 'p:<queue>' and ''.
-- Complexity: O(queues and controls of the tenant).

local out = call('HGETALL', P .. 'control:' .. ARGV[3])
local fields = call('HGETALL', P .. 'queues:' .. ARGV[3])
for i = 1, #fields, 2 do
  if sub(fields[i], -2) == ':p' and fields[i + 1] == '1' then
    out[#out + 1], out[#out + 2] = 'p:' .. sub(fields[i], 1, -3), ''
  end
end
return out
