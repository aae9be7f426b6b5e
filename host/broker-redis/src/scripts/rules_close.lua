-- Put behind lanes.lua and what belongs to it.

return m
end

local open_rules
rules = function()
  if not open_rules then open_rules = make_rules() end
  return open_rules
end
