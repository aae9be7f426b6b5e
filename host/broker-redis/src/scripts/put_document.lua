-- Stores or deletes a document if its version is as expected.
-- ARGV[3] '<tenant>,<kind>'   ARGV[4] name   ARGV[5] expected version, or '' for any   ARGV[6] '1' to store, '0' to delete
-- ARGV[7] body   ARGV[8] max documents
-- Returns { letter, version }: S stored, C conflict, F full.
-- Complexity: O(log N). A hash holds '<version> <body>' by name, a sorted set the names in order.

local bodies, names, name = P .. 'doc:' .. ARGV[3], P .. 'docs:' .. ARGV[3], ARGV[4]
local stored = call('HGET', bodies, name)
local found = stored and tonumber(string.match(stored, '^%d+')) or 0
if ARGV[5] ~= '' and tonumber(ARGV[5]) ~= found then return { 'C', found } end
if ARGV[6] == '0' then
  call('HDEL', bodies, name)
  call('ZREM', names, name)
  return { 'S', 0 }
end
if found == 0 and call('HLEN', bodies) >= tonumber(ARGV[8]) then return { 'F', 0 } end
call('HSET', bodies, name, string.format('%.0f ', found + 1) .. ARGV[7])
call('ZADD', names, 0, name)
return { 'S', found + 1 }
