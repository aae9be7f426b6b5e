-- Stops or resumes handing out a queue's jobs.
-- ARGV[3] tenant   ARGV[4] queue   ARGV[5] '1' to pause, '0' to resume
-- Returns 1, or 0 when the queue is not known.
-- Complexity: O(log N).

local queues = P .. 'queues:' .. ARGV[3]
if call('HEXISTS', queues, ARGV[4] .. ':p') == 0 then return 0 end
-- Also when there is no room: that is when somebody wants to stop a queue.
allowed_when_full()
call('HSET', queues, ARGV[4] .. ':p', ARGV[5])
local line = line_of(ARGV[3], ARGV[4])
if ARGV[5] == '1' then
  call('ZREM', line.fair, line.tenant)
elseif call('EXISTS', line.ready) == 1 then
  activate(line)
  ready_in[line.queue] = true
  tell()
end
return 1
