-- Put behind the prelude, in front of names.lua, canvas.lua, arrivals.lua (growing.lua, joining.lua) and canvas_close.lua:
-- those are in one function that is called when a script meets its first node. A script makes its closures each time that
-- it runs, and most runs have no use for these 50.

local function make_canvas()
