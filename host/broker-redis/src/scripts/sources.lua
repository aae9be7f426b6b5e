-- Put in front of serving.lua and claiming.lua: the ready jobs of a plain line (without lanes, park and controls) are read
-- ahead, and taken out afterwards. Nothing else changes them while a claim hands them out. And what a record must have, to
-- be handed out or settled.

local function source_of(line, tag)
  return { line = line, tag = tag, taken = 0, read = 0, size = call('ZCARD', line.ready) }
end

-- The next job; at most `share` are read at once.
local function take(source, share)
  if source.taken == source.read then
    local more = call('ZRANGE', source.line.ready, source.read, source.read + share - 1)
    for i = 1, #more do source[source.read + i] = more[i] end
    source.read = source.read + #more
  end
  source.taken = source.taken + 1
  return source[source.taken]
end

local function take_out(source)
  call('ZREMRANGEBYRANK', source.line.ready, 0, source.taken - 1)
end

-- What is_readable in prelude.lua denies; a function may have 60 names from outside, and these have them.
local function is_damaged(text)
  return #text < 95 or byte(text) ~= 1
end
