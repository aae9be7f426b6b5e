-- Looks at keys, or at a piece of a set, for what should not be. Needs rules, canvas.lua, deleting.lua and audit_*.lua.
-- A script sees nothing half done, so that work that goes on is never taken for an error.
-- ARGV[3] '1' to mend   ARGV[4] what to look at, see the tables below   ARGV[5…] names of keys behind their kind, or a name,
--   where to begin and how many to look at
-- Returns { where to go on, or -1; check, example, '1' if it was mended; … }.
-- Complexity: O(n log N) for n keys or entries; counts look at all leases and delays.

allowed_when_full()
if what == 'set' then
  look_at_set(ARGV[5], ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8]))
elseif what == 'hashes' then
  look_at_hashes()
elseif what == 'counts' then
  look_at_counts(tonumber(ARGV[5]), 6)
elseif what == 'dead' then
  look_at_dead(ARGV[5])
elseif what == 'lanes' then
  look_at_lanes(ARGV[5], 6)
else
  for i = 5, #ARGV do kinds[what](ARGV[i]) end
end
flush()
tell()
return out
