-- Put behind the prelude, in front of names.lua, lanes.lua, keeping.lua and rules_close.lua: those are in one function that
-- is called when a script meets the first job or line that they concern. Most runs have no use for these closures.

local function make_rules()
