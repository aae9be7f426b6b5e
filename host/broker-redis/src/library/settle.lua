-- Settling: the end of deliveries.

-- The growth is '' or as growth.lua reads it, or REFUSED when there can be no room for it. The logs follow.
local FORMAT = '<Bc0Bc0BI6I4c0I4c0Bc0I4c0I4c0I2'
local REFUSED = 'refused'
-- The letters 's' and 'b'.
local SUCCESS, WITH_BLOBS = 115, 98
local SUCCEED, FAIL, RETRY, SNOOZE, REVOKE, RELEASE, REPLACE = 0, 1, 2, 3, 4, 5, 6
local ENDS = { [SUCCEED] = SUCCEEDED, [FAIL] = FAILED, [REVOKE] = REVOKED }
-- Of this call: most log lines of a job, the time as a record has it, and whether growths are stored.
local max_log_lines, finished_now, may_grow
-- Members whose leases are over; times and members to retain, and the last of those times with its duration.
local unleased, unleased_n, to_retain, retained_n, retained_ttl, retained_until
-- Keys and records of jobs. Kept from call to call, so that they grow once.
local keys, records = {}, {}

local function resolve(member, r, tq, how, delay_ms, payload)
  if how == SUCCEED then
    r[RESULT], r[FAILURE] = payload, ''
    finish(member, r, SUCCEEDED)
  elseif how == FAIL then
    r[FAILURE] = payload
    finish(member, r, FAILED)
  elseif how == REVOKE or has(r[FLAGS], CANCEL) then
    -- What was cancelled does not come back.
    finish(member, r, REVOKED)
  elseif how == RETRY then
    r[FAILURE], r[RETRIES], r[DELIVERIES] = payload, r[RETRIES] + 1, 0
    delay(member, r, tq, RETRYING, now + delay_ms)
  elseif how == SNOOZE then
    r[DELIVERIES] = 0
    delay(member, r, tq, SCHEDULED, now + delay_ms)
  elseif how == REPLACE then
    r[STATE], r[FLAGS], r[RESULT] = WAITING, r[FLAGS] + REPLACED, payload
    add_event(member, WAITING, r[FIXED], 1)
  else
    r[DELIVERIES] = r[DELIVERIES] - 1
    enqueue(member, r, tq)
  end
end

-- What most settles are: the first attempt of a job succeeded, and nothing else was said of it. `ending` is all that stands in
-- its record behind the immutable part. Answers the new record; nothing when this is not such a settle.
local function succeeded(member, text, more, token, ending, is_attempt)
  if not text or #text < 95 or storage.refuses(member, ending) then return end
  local version, state, flags = byte(text, 1, 3)
  -- No result, failure, progress or history yet: those are JSON and would not end in zeros.
  if version ~= 1 or state ~= RUNNING or sub(text, -17) ~= NOTHING_YET then return end
  local options = more and limits.read_options(more)
  -- One that holds a unique key gives it back.
  if options and options.wins > 0 then return end
  local ttl, _, current, _, _, queue, behind_queue = unpack_struct('<I6I6Bc0Bc0I4Bc0', text, 61)
  if current ~= token then return end
  local tq = tenant_queue_of(tenant_of(member), queue)
  tq.running = tq.running - 1
  if flags >= IN_SUB_QUEUE then
    flags = flags - IN_SUB_QUEUE
    local task = unpack_struct('Bc0', text, behind_queue)
    limits.free(tq, task, options and options.has_limits and options.key or '')
  elseif is_special(tq) then
    limits.free(tq)
  end
  storage.add(tq.tenant, storage.left_in(ending))
  if is_attempt then usage.succeeded(tq.tenant, (unpack_struct('Bc0', text, behind_queue))) end
  notify_ended(member)
  unleased_n = unleased_n + 1
  unleased[unleased_n] = member
  if anybody_subscribed then add_event(member, SUCCEEDED, text, behind_queue - 1 - #queue) end
  if has(flags, NODE) then
    workflows.succeeded(member, text, behind_queue - 1 - #queue)
  else
    local n = retained_n
    -- One text for all that are kept equally long.
    if ttl ~= retained_ttl then retained_ttl, retained_until = ttl, string.format('%.0f', math.min(now + ttl, MAX_MS)) end
    to_retain[n + 1], to_retain[n + 2], retained_n = retained_until, member, n + 2
  end
  return '\1\4' .. CHARS[flags] .. sub(text, 4, 40) .. finished_now .. sub(text, 47, -18) .. ending
end

-- Adds the attempt of a settle to the sums of its task.
local function add_usage(member, r, how)
  local add = usage.other
  if how == SUCCEED then
    add = usage.succeeded
  elseif how == FAIL then
    add = usage.failed
  elseif how == RETRY and not has(r[FLAGS], CANCEL) then
    add = usage.retried
  end
  add(tenant_of(member), usage.task_in(r[FIXED]))
end

-- Whether a settle that comes again with its token could have led to what the job is now.
local function could_have_followed(how, payload, r)
  local state = r[STATE]
  if ENDS[how] then
    return state == ENDS[how] or (how == SUCCEED and state == FAILED and storage.is_quota(r[FAILURE]))
  end
  if how == REPLACE then return state == REVOKED or (has(r[FLAGS], REPLACED) and r[RESULT] == payload) end
  return state ~= SUCCEEDED and state ~= FAILED and state ~= WAITING
end

-- Answers with a letter, and the digest of a blob that is missing.
local function settle(member, text, token, how, delay_ms, payload, entry, more, progress, growth, blob, at, logs,
  is_attempt, settled_blobs)
  if not text or not is_readable(text) then return 'L' end
  local done, r = pcall(opened, text)
  if not done or r[TOKEN] ~= token then return 'L' end
  if r[STATE] ~= RUNNING then return could_have_followed(how, payload, r) and 'A' or 'L' end
  if how == SUCCEED and storage.refuses_result(tenant_of(member), payload) then
    how, payload, growth = FAIL, storage.quota(tenant_of(member)), ''
  end
  -- What was cancelled adds nothing as it goes.
  local adds = how == SUCCEED or (how == REPLACE and not has(r[FLAGS], CANCEL))
  local of_blobs = settled_blobs and adds and blobs.read_settled(settled_blobs)
  if of_blobs then
    local code, missing = blobs.refuses_settled(tenant_of(member), of_blobs)
    if code then return code, missing end
  end
  local function store_blobs()
    if of_blobs then blobs.store_settled(member, of_blobs) end
  end
  if growth ~= '' and adds then
    if not may_grow or growth == REFUSED or not workflows.grow(member, r, growth, store_blobs) then return 'N' end
  else
    store_blobs()
  end
  if #progress > 0 then r[PROGRESS] = progress end
  append_logs(member, blob, at, logs, max_log_lines)
  if #entry > 0 then remember(member, r, entry, more) end
  if is_attempt then add_usage(member, r, how) end
  local tq = tenant_queue_of(tenant_of(member), queue_in(r[FIXED]))
  leave(member, r, tq)
  resolve(member, r, tq, how, delay_ms, payload)
  save(member, r)
  return 'R'
end

-- The same of a success that is not as succeeded() has it.
local function settle_success(member, text, token, ending, is_attempt)
  local result, at = unpack_struct('<I4c0', ending)
  -- Failure and progress are empty; then comes the history with its length, and the rest of its usage.
  local entry, more = '', ''
  if byte(ending, at + 8) == 1 then
    entry, at = unpack_struct('<I4c0', ending, at + 13)
    more = sub(ending, at, -2)
  end
  return settle(member, text, token, SUCCEED, 0, result, entry, more, '', '', '', 1, 0, is_attempt)
end

-- The records of those that are sent as a success, and their broker options by the same numbers.
local function read_successes(args, kinds)
  local at, n, members = 8, 0, {}
  for k = 1, #kinds do
    if byte(kinds, k) == SUCCESS then
      n = n + 1
      keys[n], members[n], at = P .. 'job:' .. args[at], args[at], at + 3
    else
      at = at + (byte(kinds, k) == WITH_BLOBS and 2 or 1)
    end
  end
  if n == 0 then return end
  local texts, mores, at_number, wanted = call('MGET', unpack(keys, 1, n)), {}, {}, {}
  for i = 1, n do
    if texts[i] and has(byte(texts[i], FLAGS) or 0, HAS_OPTIONS) then
      at_number[#at_number + 1], wanted[#wanted + 1] = i, P .. 'more:' .. members[i]
    end
  end
  local found = #wanted > 0 and call('MGET', unpack(wanted)) or wanted
  for i = 1, #wanted do mores[at_number[i]] = found[i] end
  return texts, mores
end

-- Settles in order, one letter for each.
local function settle_all(args, kinds)
  unleased, unleased_n, to_retain, retained_n, retained_ttl = {}, 0, {}, 0, nil
  is_anybody_subscribed()
  local texts, mores = read_successes(args, kinds)
  local codes, at, read, n, missing = {}, 8, 0, 0, {}
  for k = 1, #kinds do
    local is_attempt = usage.next()
    if byte(kinds, k) == SUCCESS then
      read = read + 1
      local member, token, ending = args[at], args[at + 1], args[at + 2]
      local record = succeeded(member, texts[read], mores[read], token, ending, is_attempt)
      if record then
        records[n + 1], records[n + 2], n = keys[read], record, n + 2
      end
      if not record then limits.release_freed() end
      codes[k], at = record and 'R' or settle_success(member, texts[read], token, ending, is_attempt), at + 3
    else
      limits.release_freed()
      local settled_blobs
      if byte(kinds, k) == WITH_BLOBS then settled_blobs, at = args[at], at + 1 end
      local member, token, how, delay_ms, payload, entry, more, progress, growth, logs, behind = unpack_struct(FORMAT, args[at])
      local text = call('GET', P .. 'job:' .. member)
      local digest
      codes[k], digest = settle(member, text, token, how, delay_ms, payload, entry, more, progress, growth, args[at], behind,
        logs, is_attempt, settled_blobs)
      if digest then missing[#missing + 1] = blobs.hex(digest) end
      at = at + 1
    end
  end
  limits.release_freed()
  if n > 0 then call('MSET', unpack(records, 1, n)) end
  in_pieces('ZREM', P .. 'leases', unleased)
  in_pieces('ZADD', P .. 'retain', to_retain)
  return table.concat(codes) .. table.concat(missing)
end

-- Ends deliveries, does what follows from that, and claims more in the same step.
-- ARGV[2…4] limits   ARGV[5] max_log_lines   ARGV[6] a packed claim, or ''   ARGV[7] per settle: 's' for a success with
--   nothing but a result and an attempt, 'o' for any other, 'b' for one with blobs (then what blobs.lua says of them is in front)
--   ARGV[8…] of a success: member, token, and the record behind its
--   immutable part; of another: see FORMAT and encode.rs. No job comes twice. The last one: what they used, see usage.give().
-- Returns { codes, … }: one letter per settle (R recorded, A already done, L lost, N no capacity, S too many bytes of blobs, M too
--   many blobs, D a blob is missing) and behind them the digests that are missing, 64 digits each; then the deliveries as claim()
--   appends them.
-- Complexity: O(n log N), and that of work.advance(). All successes are read and written together.
local function run(args)
  new_workflows.limit(args)
  max_log_lines, finished_now = tonumber(args[5]), pack('<I6', now)
  usage.give(args[#args])
  local out = { settle_all(args, args[7]) }
  work.advance()
  if #args[6] > 0 then
    flush_indexes()
    claims.claim(args[6], out)
  end
  flush()
  notify()
  return out
end

-- A full Redis lets jobs end, but takes no more of them: `settle_growing` is refused then, and `settle` refuses what is added.
register('settle', 'allow-oom', function(args)
  may_grow = false
  return run(args)
end)
register('settle_growing', '', function(args)
  may_grow = true
  return run(args)
end)

-- Hands back what was claimed in calls whose answers were lost, as if its worker had released it.
-- ARGV[2] leases looked at, at most   ARGV[3…] token seeds of the claims
-- Returns how many jobs.
-- Complexity: O(n) for n leases.
register('hand_back', 'allow-oom', function(args)
  local seeds, count = {}, 0
  for i = 3, #args do seeds[args[i]] = true end
  for _, member in ipairs(call('ZRANGE', P .. 'leases', -tonumber(args[2]), -1)) do
    local key = P .. 'job:' .. member
    -- The token, which follows 72 bytes.
    local piece = call('GETRANGE', key, 72, 136)
    local token = #piece > 0 and sub(piece, 2, 1 + byte(piece)) or ''
    if seeds[string.match(token, '^(.*)%-%d+$')] then
      if settle(member, call('GET', key), token, RELEASE, 0, '', '', '', '', '', '', 1, 0) == 'R' then count = count + 1 end
    end
  end
  limits.release_freed()
  work.advance()
  flush()
  notify()
  return count
end)
