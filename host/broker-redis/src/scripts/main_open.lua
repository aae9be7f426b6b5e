-- Put in front of the rest of a script that runs often, with main_close.lua behind it: what functions have from outside
-- costs time in every run, and less when it is outside of a function around them.

return (function()
