-- The ready jobs of a plain tenant queue (without sub-queues, block and controls) are read ahead, and taken out afterwards.
-- Nothing else changes them while a claim hands them out.

local function source_of(tq, tag)
  return { tq = tq, tag = tag, taken = 0, read = 0, size = call('ZCARD', tq.ready) }
end

-- The next job; at most `share` are read at once.
local function take(source, share)
  if source.taken == source.read then
    local more = call('ZRANGE', source.tq.ready, source.read, source.read + share - 1)
    for i = 1, #more do source[source.read + i] = more[i] end
    source.read = source.read + #more
  end
  source.taken = source.taken + 1
  return source[source.taken]
end

local function take_out(source)
  call('ZREMRANGEBYRANK', source.tq.ready, 0, source.taken - 1)
end
