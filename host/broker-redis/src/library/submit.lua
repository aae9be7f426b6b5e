-- Submission of jobs, each on its own.
--
-- Jobs that differ in little are of one group, and a record comes in two pieces, between which only times and the arrival
-- are missing. Jobs that are new and ready at once are written together: one command for all records, one for each index.
-- Any other is done by itself.

-- A group: bits (1: each of its jobs has details, 2: they have limits); tenant, queue, task, limit key, first 16 bytes of a
-- record, broker options or '', labels or ''.
local GROUP = '<BBc0Bc0Bc0Bc0c16I2c0I2c0'
-- Details of a job: kind of start, start, expiry (a duration, a time), large spec, idempotency key, body and time, the dead
-- job that it replaces, digests of blobs.
local DETAILS = '<BI6I6I6I4c0I2c0I2c0I6Bc0I2c0'
local NO_DETAILS = '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0'
-- In a job's second piece: the priority's part of the score and two retentions are in front of the immutable part's length.
local FIXED_IN_PIECE = 27
-- In a second piece: all but the names of queue and task, and the spec.
local BESIDE_SPEC = 45

-- Of this call: limits, the failure of a superseded job and what stands in it for the other's id, the arrival before the next
-- one, how many jobs there are, one letter per job, and ids.
local max_backlog, max_queues, superseded, by, arrival, count, codes, ids

-- The jobs of this call may use the next `count` numbers.
local function reserve()
  arrival = arrivals.take(count)
end

local function read_groups(text)
  local groups, at = {}, 1
  while at <= #text do
    local bits, tenant, queue, task, limit_key, head, more, hashes
    bits, tenant, queue, task, limit_key, head, more, hashes, at = unpack_struct(GROUP, text, at)
    groups[#groups + 1] = { has_details = bits % 2 == 1, has_limits = bits >= 2, tq = tenant_queue_of(tenant, queue),
      task = task, key = limit_key, head = head, more = #more > 0 and more,
      labels = #hashes > 0 and hashes, n = 0, beside_spec = BESIDE_SPEC + #queue + #task }
  end
  return groups
end

-- Whether one more job fits: nothing, F or Q.
local function room(tq)
  if not tq.counted then
    local queues = P .. 'queues:' .. tq.tenant
    local delayed = call('HGET', queues, tq.queue .. ':d')
    if not delayed then
      -- Every queue has three fields.
      if call('HLEN', queues) / 3 >= max_queues then return 'Q' end
      return nil
    end
    tq.known, tq.counted = true, true
    local in_sub_queues = is_special(tq) and call('HGET', P .. 'line:' .. tq.name, 'q') or 0
    tq.backlog = call('ZCARD', tq.ready) + in_sub_queues + delayed + tq.delayed
  end
  if tq.backlog >= max_backlog then return 'F' end
end

-- Jobs came and went in other ways than these.
local function count_again()
  flush_indexes()
  for _, tq in pairs(tenant_queues) do tq.counted = false end
end

-- ---- one job by itself

local function answer(code, id)
  codes[#codes + 1] = code
  if id then ids[#ids + 1] = id end
end

-- Gives a new job its unique key, and ends the one that it supersedes. Since when they do that, and the score of that one.
local function supersede(tenant, id, options, queue, priority)
  local failure = (string.gsub(superseded, by, id))
  local since, took, score = unique.supersede(tenant, id, options, failure, queue, priority)
  if took then count_again() end
  return since, score
end

-- The bytes of a spec in a second piece, and those that it refers to.
local function sent_in(g, piece)
  return #piece - g.beside_spec + storage.arguments_apart(piece, 17)
end

-- What keeps a job from being stored: a letter, and an id.
local function refusal(g, key, id, idem_key, idem_body, idem_ttl, redrive, bytes, digests)
  local tenant, options = g.tq.tenant, g.more and limits.read_options(g.more)
  if #idem_key > 0 or #redrive > 0 or options then
    if call('EXISTS', key) == 1 then return 'E', id end
    if #idem_key > 0 then
      local code, first = idempotency.known(tenant, idem_key, idem_body)
      if code then return code, first end
    end
    local first = options and unique.find_duplicate(tenant, options)
    if first then
      if #idem_key > 0 then idempotency.keep(tenant, idem_key, idem_body, idem_ttl, first) end
      return 'D', first
    end
    if #redrive > 0 and not call('ZSCORE', P .. 'dead:' .. tenant, redrive) then return 'N' end
  end
  local code = room(g.tq)
  if not code and not storage.fits(tenant, bytes) then code = 'B' end
  local missing = not code and blobs.missing(tenant, digests)
  if missing then code = 'M' end
  if code and call('EXISTS', key) == 1 then return 'E', id end
  return code, missing and blobs.hex(missing) or nil
end

local function submit(g, id, piece, details)
  local start, start_ms, expires_ms, expires_at, apart, idem_key, idem_body, idem_ttl, redrive, digests =
    unpack_struct(DETAILS, details)
  local tq, options, tenant, queue = g.tq, g.more and limits.read_options(g.more), g.tq.tenant, g.tq.queue
  local flags, priority = byte(g.head, FLAGS, PRIORITY)
  local member, key = g.tq.member .. id, g.tq.job .. id
  local bytes = #apart + storage.arguments_apart(apart, 0) + sent_in(g, piece)
  local code, other = refusal(g, key, id, idem_key, idem_body, idem_ttl, redrive, bytes, digests)
  if code then return answer(code, other) end

  local due, inherited = start_ms, nil
  if start == 1 then due = now + start_ms end
  if options and options.wins > 0 then
    local since
    since, inherited = supersede(tenant, id, options, queue, priority)
    if start == 1 and options.wins == 2 and options.max_wait_ms > 0 then due = math.min(due, since + options.max_wait_ms) end
  end
  due = math.min(due, MAX_MS)
  local expires = 0
  if expires_ms > 0 then expires = math.min(now + expires_ms, MAX_MS) end
  if expires_at > 0 and (expires == 0 or expires_at < expires) then expires = expires_at end
  local state, score = QUEUED, (9 - priority) * PRIORITY_STEP + arrival + 1
  if start == 0 or due <= now then due, score = 0, inherited or score else state, score = SCHEDULED, 0 end
  local in_sub_queue = state == QUEUED and g.has_limits
  local text = pack('BBB', 1, state, in_sub_queue and flags + IN_SUB_QUEUE or flags) .. sub(g.head, 4)
    .. pack('<I6I6I6I6I6I7', now, expires, due, 0, 0, score) .. sub(piece, 2)
  if not call('SET', key, text, 'NX') then return answer('E', id) end
  storage.add(tenant, bytes)

  if #redrive > 0 then dead_set.leave(tenant, redrive) end
  if g.more then call('SET', P .. 'more:' .. member, g.more) end
  if #idem_key > 0 then idempotency.keep(tenant, idem_key, idem_body, idem_ttl, id) end
  if #apart > 0 then call('SET', P .. 'spec:' .. member, apart) end
  blobs.refer(member, digests)
  if not tq.known then
    make_queue(tq)
    tq.counted, tq.backlog = true, 0
  end
  tq.backlog, tq.used = tq.backlog + 1, true
  zadd(P .. 'jobs:' .. tenant, '0', id)
  if g.labels then labels.add(tenant, id, g.labels) end
  add_event(member, state, piece, FIXED_IN_PIECE)
  if state == QUEUED then
    arrival = arrival + 1
    if expires > 0 then zadd(P .. 'look', expires, member) end
    if in_sub_queue then
      limits.insert(tq, g.task, g.key, score, id)
      ready_in[queue] = (ready_in[queue] or 0) + 1
    else
      put_ready(tq, score, id)
    end
  else
    if expires > 0 and expires < due then due = expires end
    zadd(P .. 'look', due, member)
    tq.delayed = tq.delayed + 1
  end
  codes[#codes + 1] = 'C'
end

-- For a call that submits one job after the other: ARGV[2…5] of `submit`, and how many there are at most.
local has_work
function submission.begin(backlog, queues, failure, other, most)
  max_backlog, max_queues, superseded, by, count = tonumber(backlog), tonumber(queues), failure, other, most
  reserve()
  has_work = call('EXISTS', P .. 'todo') == 1
end

-- Submits one: its group, id, second piece, and details or ''. Its letter, and the id or digest of the answer.
function submission.one(group, id, piece, details)
  codes, ids = {}, {}
  submit(read_groups(group)[1], id, piece, details ~= '' and details or NO_DETAILS)
  if has_work and codes[1] == 'C' then
    work.advance()
    count_again()
    has_work = false
    reserve()
  end
  return codes[1], ids[1]
end

-- ---- many jobs together

-- Records and their keys, by turns. Kept from call to call, so that it grows once.
local records = {}

-- By the first bytes of a group's records, with a letter for limits: those bytes up to the arrival, and the score without it.
local function front_of(g, fronts)
  local name = (g.has_limits and 'l' or 'p') .. g.head
  local front = fronts[name]
  if not front then
    local flags, priority = byte(g.head, FLAGS, PRIORITY)
    if g.has_limits then flags = flags + IN_SUB_QUEUE end
    front = { score = (9 - priority) * PRIORITY_STEP,
      text = pack('BBB', 1, QUEUED, flags) .. sub(g.head, 4) .. pack('<I6I6I6I6I6', now, 0, 0, 0, 0) }
    fronts[name] = front
  end
  return front
end

-- Puts jobs together: `args` from `at` to `upto` are ids and second pieces, `numbers` from `k` their groups. Answers the groups
-- in the order of their first jobs, and how long `records` is. A group's `list` has scores and ids by turns.
local function put_together(args, at, upto, groups, numbers, k)
  local order, n, records, chars, digits, fronts = {}, 0, records, CHARS, DIGITS, {}
  local low, high = 255, nil
  for i = at, upto, 2 do
    local g, id = groups[numbers[k]], args[i]
    local m, tq, list = g.n, g.tq, g.list
    k, arrival = k + 1, arrival + 1
    if low == 255 then
      low, high = arrival % 256, sub(pack('<I6', arrival), 2)
    else
      low = low + 1
    end
    if m == 0 then
      list = {}
      order[#order + 1], g.list, g.front, g.bytes, g.took = g, list, front_of(g, fronts), 0, 0
    end
    g.bytes = g.bytes + sent_in(g, args[i + 1])
    local front = g.front
    records[n + 1], records[n + 2], n = tq.job .. id, front.text .. chars[low] .. high .. args[i + 1], n + 2
    if g.more then
      records[n + 1], records[n + 2], n = P .. 'more:' .. tq.member .. id, g.more, n + 2
    end
    -- In text, because Redis writes and reads a number slowly; all but the last three digits are those of the job before.
    local score = front.score + arrival
    local last = score % 1000
    if score - last ~= front.thousands then
      front.thousands, front.digits = score - last, string.format('%.0f', (score - last) / 1000)
    end
    list[m + 1], list[m + 2], g.n = front.digits .. digits[last], id, m + 2
  end
  return order, n
end

-- Whether there is room for all jobs of these groups, which is taken.
local function take_room(order)
  for _, g in ipairs(order) do
    local tq = g.tq
    if room(tq) or not tq.known then return false end
    tq.backlog = tq.backlog + g.n / 2
    if tq.backlog > max_backlog or not storage.take(tq.tenant, g.bytes) then return false end
    g.took = g.bytes
  end
  return true
end

-- Writes the indexes of groups whose records are stored.
local function index(order)
  local by_tenant, known = {}, {}
  for _, g in ipairs(order) do
    local tq, list, n = g.tq, g.list, g.n
    local names = by_tenant[tq.tenant]
    if not names then
      names = {}
      by_tenant[tq.tenant] = names
    end
    local m = #names
    for i = 1, n, 2 do names[m + i], names[m + i + 1] = '0', list[i + 1] end
    if g.labels then
      for i = 2, n, 2 do labels.add(tq.tenant, list[i], g.labels) end
    end
    if g.has_limits then
      limits.insert_many(known, tq, g.task, g.key, list, n)
    else
      in_pieces('ZADD', tq.ready, list)
      if is_special(tq) then limits.settle_tenant_queue(tq) else activate(tq) end
    end
    ready_in[tq.queue], tq.used = (ready_in[tq.queue] or 0) + n / 2, true
  end
  limits.write_inserted(known)
  for tenant, names in pairs(by_tenant) do in_pieces('ZADD', P .. 'jobs:' .. tenant, names) end
end

-- Stores jobs together, see put_together. Changes nothing and answers false when one of them cannot be stored.
local function store_together(args, at, upto, groups, numbers, k)
  local before = arrival
  local order, n = put_together(args, at, upto, groups, numbers, k)
  local is_stored = take_room(order) and call('MSETNX', unpack(records, 1, n)) == 1
  if is_stored then
    index(order)
    if is_anybody_subscribed() then
      for i = at, upto, 2 do
        add_event(groups[numbers[k + (i - at) / 2]].tq.member .. args[i], QUEUED, args[i + 1], FIXED_IN_PIECE)
      end
    end
    codes[#codes + 1] = string.rep('C', (upto - at + 1) / 2)
  else
    arrival = before
    for _, g in ipairs(order) do storage.add(g.tq.tenant, 0 - g.took) end
    count_again()
  end
  for _, g in ipairs(order) do g.n = 0 end
  return is_stored
end

-- ---- the call

-- The numbers in a text of two bytes each, and one more.
local function read_numbers(text)
  local bytes, numbers = { byte(text, 1, -1) }, {}
  for k = 1, #text / 2 do numbers[k] = bytes[2 * k - 1] + 256 * bytes[2 * k] + 1 end
  return numbers
end

-- Stores jobs, and goes on with the work items after the first one that is new.
-- ARGV[2] max_backlog   ARGV[3] max_queues   ARGV[4] failure of a superseded job, JSON text   ARGV[5] what stands in it for the
--   other's id   ARGV[6] groups, see GROUP   ARGV[7] the group of each job, two bytes   ARGV[8…] per job: id, second piece
--   of its record (its last byte of the score and all behind it), and details (see DETAILS) if its group has them
-- Returns { codes, id… }: one letter per job (C created, E existing, X conflict, F queue full, Q too many queues,
--   N not dead, D duplicate, B too many bytes of the tenant, M a blob is missing); E, X and D take the next id, M the next digest.
-- Complexity: O(n log N).
register('submit', '', function(args)
  local groups, numbers = read_groups(args[6]), read_numbers(args[7])
  max_backlog, max_queues, superseded, by = tonumber(args[2]), tonumber(args[3]), args[4], args[5]
  count, codes, ids = #numbers, {}, { '' }
  reserve()
  local has_work = call('EXISTS', P .. 'todo') == 1
  local at, k = 8, 1
  while k <= count do
    local g, last, upto = groups[numbers[k]], k, at + 1
    if not has_work and not g.has_details then
      while last < count and not groups[numbers[last + 1]].has_details do last, upto = last + 1, upto + 2 end
    end
    if has_work or g.has_details or not store_together(args, at, upto, groups, numbers, k) then
      for number = k, last do
        g = groups[numbers[number]]
        submit(g, args[at], args[at + 1], g.has_details and args[at + 2] or NO_DETAILS)
        at = at + (g.has_details and 3 or 2)
      end
      if has_work and codes[#codes] == 'C' then
        work.advance()
        count_again()
        has_work = false
        -- What has become ready was there before the jobs that follow.
        reserve()
      end
    else
      at = upto + 1
    end
    k = last + 1
  end
  flush()
  notify()
  ids[1] = table.concat(codes)
  return ids
end)
