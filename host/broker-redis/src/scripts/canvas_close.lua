-- Put behind canvas.lua and what belongs to it.

return c
end

canvas = function()
  if not open_canvas then open_canvas = make_canvas() end
  return open_canvas
end

-- Goes on with the work list, if there is one.
local function advance()
  if open_canvas or call('EXISTS', P .. 'todo') == 1 then canvas().advance() end
end
