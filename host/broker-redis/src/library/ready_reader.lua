-- Readers of sorted sets of which the first entries are taken: ready jobs, and the children of a tenant queue in turn.
-- A reader reads ahead, and is written when all has been taken. Nothing else may change its set meanwhile.

local before = turns.before

-- At first it reads `step` entries, then more and more. It passes over `but`.
local function reader_of(key, step, but)
  return { key = key, step = step, but = but, names = {}, scores = {}, next = 1, read = 0, kept = 0, at_end = false,
    back = {}, back_first = 1, back_last = 0, changed = {} }
end

-- Finds the first entry that was not taken.
local function find_first(reader)
  local next = reader.next
  while next > reader.kept and not reader.at_end do
    local kept, step = reader.kept, reader.step
    local more = call('ZRANGE', reader.key, reader.read, reader.read + step - 1, 'WITHSCORES')
    local n = #more / 2
    for i = 1, n do
      local name = more[2 * i - 1]
      if name ~= reader.but then
        kept = kept + 1
        reader.names[kept], reader.scores[kept] = name, tonumber(more[2 * i])
      end
    end
    reader.at_end, reader.read, reader.kept, reader.step = n < step, reader.read + n, kept, math.min(4 * step, 256)
  end
  local name, score, other = reader.names[next], reader.scores[next], reader.back[reader.back_first]
  local is_back = other and (not name or other.score < score or (other.score == score and before(other.name, name)))
  if is_back then name, score = other.name, other.score end
  reader.is_found, reader.is_back, reader.name, reader.score = true, is_back, name, score
end

-- The first entry that was not taken, and its score; nothing when there is none.
local function first_of(reader)
  if not reader.is_found then find_first(reader) end
  return reader.name, reader.score
end

-- A score that no entry behind the first one falls below, as far as is known without reading more.
local function least_behind_first(reader)
  if not reader.is_found then find_first(reader) end
  local place = reader.is_back and 0 or 1
  local read, other = reader.scores[reader.next + place], reader.back[reader.back_first + 1 - place]
  if not read and not reader.at_end then return -math.huge end
  return math.min(read or math.huge, other and other.score or math.huge)
end

-- Takes what first_of() answered.
local function take_first(reader)
  if not reader.is_found then find_first(reader) end
  if reader.is_back then
    reader.back[reader.back_first], reader.back_first = nil, reader.back_first + 1
  else
    reader.next = reader.next + 1
  end
  reader.is_found = false
end

-- Adds an entry that was not read, or was taken.
local function put_back(reader, name, score)
  local back, i = reader.back, reader.back_last
  while i >= reader.back_first
    and (back[i].score > score or (back[i].score == score and before(name, back[i].name))) do
    back[i + 1], i = back[i], i - 1
  end
  back[i + 1], reader.back_last, reader.is_found = { name = name, score = score }, reader.back_last + 1, false
end

-- Takes the first entry and puts it back with another score, or not at all.
local function replace_first(reader, score)
  local name = first_of(reader)
  take_first(reader)
  reader.changed[name] = score or false
  if score then put_back(reader, name, score) end
end

-- Writes what replace_first() changed.
local function write_changed(reader)
  local out, back = {}, {}
  for name, score in pairs(reader.changed) do
    if score then back[#back + 1], back[#back + 2] = score, name else out[#out + 1] = name end
  end
  in_pieces('ZREM', reader.key, out)
  in_pieces('ZADD', reader.key, back)
end

-- Removes what was taken of a set of which nothing was put back.
local function write_taken(reader)
  if reader.next > 1 then call('ZREMRANGEBYRANK', reader.key, 0, reader.next - 2) end
end
