-- See main_open.lua.

end)()
