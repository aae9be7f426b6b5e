-- Reads the order to a worker, or replaces it.
-- ARGV[3] time to live, milliseconds   ARGV[4] id   ARGV[5] the order that was read, or ''   ARGV[6] its replacement, or '' to
--   read
-- Returns { 'U' } when no such worker is alive, { 'S' } when the order was replaced, { 'R', order or '', what it says of
--   itself } otherwise.
-- Complexity: O(log N).

local seen = tonumber(call('ZSCORE', P .. 'workers_seen', ARGV[4]))
if not seen or seen + tonumber(ARGV[3]) <= now then return { 'U' } end
local order = call('HGET', P .. 'orders', ARGV[4]) or ''
if ARGV[6] == '' or order ~= ARGV[5] then return { 'R', order, call('HGET', P .. 'workers', ARGV[4]) or '' } end
-- A worker must hear that it has to stop also when there is no room.
allowed_when_full()
call('HSET', P .. 'orders', ARGV[4], ARGV[6])
return { 'S' }
