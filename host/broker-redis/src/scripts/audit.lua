-- Looks at keys, or at a piece of a set, for what should not be. Needs rules, canvas.lua, deleting.lua and audit_*.lua.
-- A script sees nothing half done, so that work that goes on is never taken for an error.
-- ARGV[3] '1' to mend   ARGV[4] what to look at, see the tables below   ARGV[5…] names of keys behind their kind, or a name,
--   where to begin and how many to look at
-- Returns { where to go on, or -1; check, example, '1' if it was mended; … }.
-- Complexity: O(n log N) for n keys or entries; counts look at all leases and delays.

local function look()
  if what == 'set' then
    look_at_set(ARGV[5], ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8]))
  elseif what == 'hashes' then
    look_at_hashes()
  elseif what == 'counts' then
    look_at_counts(tonumber(ARGV[5]), 6)
  elseif what == 'dead' then
    look_at_dead(ARGV[5])
  else
    look_at_lanes(ARGV[5], 6)
  end
end

-- Of the wrong type, say, or with an entry that is not as they are written.
local function try(look_at, name)
  if not pcall(look_at, name) then found('keys that cannot be read', name) end
end

allowed_when_full()
if kinds[what] then
  for i = 5, #ARGV do
    try(function() kinds[what](ARGV[i]) end, what .. ':' .. ARGV[i])
  end
else
  try(look, what .. ' ' .. (ARGV[5] or ''))
end
flush()
tell()
return out
