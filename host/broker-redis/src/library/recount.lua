-- Counting anew what tenants have stored, page by page, while others work; see recount.rs.
--
-- `meta:recounting_v1` names the time in which changes are noted (`meta:changed_v1`). It ends by itself when nobody prolongs it, and
-- whoever counted over it begins anew. Several may count at once: they share it.

-- It is prolonged by each piece; milliseconds.
local KEPT_MS = 30000

local function keep_watching(token)
  call('SET', P .. 'meta:recounting_v1', token, 'PX', KEPT_MS)
end

-- Notices workers of older releases that were alive in the last `ttl` milliseconds, and submissions.
local function look_for_older(ttl)
  if arrivals.last ~= arrivals.last_counted then arrivals.take(0) end
  local since = string.format('(%.0f', now - ttl)
  local alive = call('ZRANGEBYSCORE', P .. 'workers_seen', since, '+inf')
  for from = 1, #alive, 1000 do
    local counting = call('ZMSCORE', P .. 'meta:workers_v1', unpack(alive, from, math.min(from + 999, #alive)))
    for i = 1, #counting do
      if not counting[i] then return storage.distrust() end
    end
  end
end

-- Begins to count, if that is due: if it was not done for so long, or processes of older releases were noticed since it was begun
-- the last time.
-- ARGV[2] a new token   ARGV[3] '1' also when it is not due   ARGV[4] how often   ARGV[5] how often while there are older
--   processes   ARGV[6] a worker that was not seen for so long is gone; milliseconds
-- Returns { token, time }, or nothing when it is not due.
-- Complexity: O(number of workers).
register('begin_recount', 'allow-oom', function(args)
  look_for_older(tonumber(args[6]))
  local found = call('MGET', P .. 'meta:recounted_v1', P .. 'meta:older_v1')
  local last, older = tonumber(found[1] or ''), tonumber(found[2] or '')
  -- The clock may have been set back.
  if args[3] ~= '1' and last and last <= now then
    local is_due = now - last >= tonumber(args[4]) or (older and older >= last and now - last >= tonumber(args[5]))
    if not is_due then return {} end
  end
  local token = storage.watched()
  if not token then
    token = string.format('%s %.0f', args[2], now)
    call('UNLINK', P .. 'meta:changed_v1')
  end
  keep_watching(token)
  return { token, string.format('%.0f', now) }
end)

-- ---- measuring

-- As much as so many jobs: two milliseconds.
local MOST_WORK = 200
-- Documents that are looked at together, and how many of them are as much as a job.
local SHELF_PIECE, DOCUMENTS = 500, 4

-- The sums of this call: by tenant, and in order.
local by_tenant, sums

local function sum_of(tenant)
  local sum = by_tenant[tenant]
  if not sum then
    sum = { tenant, 0, 0, 0, 0, 0, 0, 0 }
    by_tenant[tenant], sums[#sums + 1] = sum, sum
  end
  return sum
end

local measures = {}

function measures.job(member)
  local bytes, log = storage.job(member)
  local sum = sum_of(tenant_of(member))
  sum[2], sum[3] = sum[2] + bytes, sum[3] + log
end

function measures.wf(member)
  local sum = sum_of(tenant_of(member))
  sum[2] = sum[2] + (call('HGET', P .. 'wft:' .. member, 'b') or 0)
end

-- Documents of a kind by name, those behind `from`; the last name when there are more.
function measures.doc(shelf, from)
  local names = call('ZRANGEBYLEX', P .. 'docs:' .. shelf, from == '' and '-' or '(' .. from, '+', 'LIMIT', 0, SHELF_PIECE)
  local bodies, held, bytes = P .. 'doc:' .. shelf, P .. 'meta:held:' .. shelf, 0
  for _, name in ipairs(names) do
    local body = call('HSTRLEN', bodies, name)
    if body > 0 then bytes = bytes + #name + body + (call('HGET', held, name) or 0) end
  end
  local tenant, kind = string.match(shelf, '^([^,]*),(.*)$')
  local sum = sum_of(tenant)
  sum[4] = sum[4] + bytes
  if kind == 'module' then sum[5] = sum[5] + bytes end
  storage.work_done(#names / DOCUMENTS)
  return #names == SHELF_PIECE and names[SHELF_PIECE] or nil
end

-- Key-value entries of a bucket by key, or blobs of a tenant by digest, those behind `from`; the last one when there are more. Or a
-- schedule.
function measures.meta(name, from)
  local owner = string.match(name, '^blobs_v1:(.*)$')
  if owner then
    local bytes, count, last = blobs.measure(owner, from, SHELF_PIECE)
    local sum = sum_of(owner)
    sum[7] = sum[7] + bytes
    storage.work_done(count / DOCUMENTS)
    return last
  end
  local schedule = string.match(name, '^schedule_v1:(.*)$')
  if schedule then
    local tenant, bytes = schedules.measure(schedule)
    local sum = sum_of(tenant)
    sum[8] = sum[8] + bytes
    return
  end
  local tenant, bytes, entries, last = kv.measure(string.match(name, '^kv_v1:(.*)$'), from, SHELF_PIECE)
  local sum = sum_of(tenant)
  sum[6] = sum[6] + bytes
  storage.work_done(entries / DOCUMENTS)
  return last
end

-- What keys take; as many of them as a call should measure.
-- ARGV[2] token   ARGV[3] behind which name to go on in the first one, or ''   ARGV[4…] names of keys below the prefix: job, wf, doc,
--   meta:kv_v1, meta:blobs_v1, meta:schedule_v1
-- Returns { keys that are done, name behind which to go on in the next one or '', { tenant, bytes of jobs and workflows, of logs,
--   of documents, of modules, of key-value entries, of blobs, of schedules }, … }; { -1 } when not every change since the beginning was noted.
-- Complexity: O(n), with the log lines and the documents.
register('measure', 'allow-oom', function(args)
  if storage.watched() ~= args[2] then return { -1 } end
  keep_watching(args[2])
  by_tenant, sums = {}, {}
  local from, at = args[3], 4
  while at <= #args and storage.work_done(1) <= MOST_WORK do
    local kind, name = string.match(args[at], '^(%a+):(.*)$')
    -- What cannot be read must not stop the others; an audit tells of it.
    local done, behind = pcall(measures[kind], name, from)
    from = done and behind or ''
    if from == '' then at = at + 1 end
  end
  return { at - 4, from, unpack(sums) }
end)

-- ---- comparing

-- Compares counters of tenants with what was measured. Changes since a key was measured are noted, and so may be changes before it
-- was: there is at least the least that was measured less all that was taken away since the beginning, and at most the most that was
-- measured and all that was added. A counter between both may be right, and is left.
-- ARGV[2] token   ARGV[3] '1' to correct   ARGV[4…] tenant, then the least and the most of each counter, without what is noted
-- Returns { 1, tenants with a wrong counter, … }; { -1 } when not every change since the beginning was noted.
-- Complexity: O(n).
register('compare_stored', 'allow-oom', function(args)
  if storage.watched() ~= args[2] then return { -1 } end
  keep_watching(args[2])
  local out, fields = { 1 }, { 'j', 'l', 'd', 'm', 'k', 'b', 's' }
  for at = 4, #args, 1 + 2 * #fields do
    local tenant, names, is_wrong = args[at], {}, false
    for _, field in ipairs(fields) do
      names[#names + 1], names[#names + 2] = tenant .. ',-' .. field, tenant .. ',+' .. field
    end
    local noted = call('HMGET', P .. 'meta:changed_v1', unpack(names))
    local stored = call('HMGET', storage.key(tenant), unpack(fields))
    for i, field in ipairs(fields) do
      local counter = tonumber(stored[i] or 0)
      local least = math.max(args[at + 2 * i - 1] - (noted[2 * i - 1] or 0), 0)
      local most = math.max(args[at + 2 * i] + (noted[2 * i] or 0), 0)
      local right = math.min(math.max(counter, least), most)
      if right ~= counter then
        is_wrong = true
        if args[3] == '1' then storage.count(tenant, field, right - counter) end
      end
    end
    if is_wrong then out[#out + 1] = tenant end
  end
  return out
end)

-- All counters were compared and corrected.
-- ARGV[2] token   ARGV[3] when that was begun
-- Complexity: O(1).
register('finish_recount', 'allow-oom', function(args)
  if storage.watched() == args[2] then call('SET', P .. 'meta:recounted_v1', args[3]) end
end)
