-- The ready jobs of a plain tenant queue (without sub-queues, block and controls) are read ahead, and taken out afterwards.
-- Nothing else changes them while a claim hands them out.

local function reader_of(tq, tag)
  return { tq = tq, tag = tag, taken = 0, read = 0, size = call('ZCARD', tq.ready) }
end

-- The next job; at most `share` are read at once.
local function take(reader, share)
  if reader.taken == reader.read then
    local more = call('ZRANGE', reader.tq.ready, reader.read, reader.read + share - 1)
    for i = 1, #more do reader[reader.read + i] = more[i] end
    reader.read = reader.read + #more
  end
  reader.taken = reader.taken + 1
  return reader[reader.taken]
end

local function take_out(reader)
  call('ZREMRANGEBYRANK', reader.tq.ready, 0, reader.taken - 1)
end
