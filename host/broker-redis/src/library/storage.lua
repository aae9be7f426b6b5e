-- The bytes that a tenant has stored: `meta:stored:<tenant>` has the counters by kind: `j` jobs and workflows, and `l` the part of
-- it that is logs; `d` documents and what they stand for, and `m` the part of it that is modules; `k` key-value entries; `b` blobs; `s` schedules, which
-- count as documents do. What counts is said in the broker's rules/storage.rs. A step adds up what it changes, and writes it once at its end.

-- While somebody counts anew (see recount.lua), `meta:recounting_v1` is there, and each change is noted in `meta:changed_v1`, too:
-- what was added by '<tenant>,+<counter>', and what was taken away by '<tenant>,-<counter>'.

-- A process of an older release does not count. `meta:older_v1` is the time at which one was noticed last: it submitted, and left
-- `meta:counted_seq` behind `seq`, as labels.lua says of `meta:seq`; or it has a worker that is not in `meta:workers_v1`.

-- What is set for a tenant, is a hash `control:;<tenant>`: `j`, `d`, `k` and `b`, bytes that it may store. `special` names it as it names
-- the controls of a tenant, so that it costs nothing where nothing is set; no tenant has such a name.

-- What each tenant may store; 0: any number.
local each
-- Of this call: changes of `j` and of `l`, by tenant; `j` as it was before those, and what a tenant may store, if it was asked.
local jobs, logs, before, own
-- What `meta:recounting_v1` says, or nothing; what is to be noted for it, and the work that measuring was.
local watched, changed, work_done

resets[#resets + 1] = function() jobs, logs, before, own, changed, work_done = {}, {}, {}, {}, {}, 0 end

function storage.watch(recounting)
  watched = recounting
end

function storage.watched()
  return watched
end

-- Counters are right, because the store is empty.
function storage.trust()
  call('SET', P .. 'meta:recounted_v1', now)
end

-- A process of an older release was noticed.
function storage.distrust()
  call('SET', P .. 'meta:older_v1', now)
end

local function note(tenant, field, bytes)
  if not watched or bytes == 0 then return end
  local name = tenant .. (bytes > 0 and ',+' or ',-') .. field
  changed[name] = (changed[name] or 0) + math.abs(bytes)
end

function storage.limit_each(job_bytes, document_bytes)
  each = { j = job_bytes, d = document_bytes }
end

function storage.key(tenant)
  return P .. 'meta:stored:' .. tenant
end

-- Counts at once. A release before this one does not count, so that more may be given back than was taken.
function storage.count(tenant, field, bytes)
  local key = storage.key(tenant)
  if call('HINCRBY', key, field, bytes) > 0 then return end
  call('HDEL', key, field)
end

-- Counts at the end of the call. `of_logs`: how many of the bytes are those of log lines.
function storage.add(tenant, bytes, of_logs)
  jobs[tenant] = (jobs[tenant] or 0) + bytes
  note(tenant, 'j', bytes)
  if not of_logs then return end
  logs[tenant] = (logs[tenant] or 0) + of_logs
  note(tenant, 'l', of_logs)
end

function storage.flush()
  for tenant, bytes in pairs(jobs) do
    if bytes ~= 0 then storage.count(tenant, 'j', bytes) end
  end
  for tenant, bytes in pairs(logs) do
    if bytes ~= 0 then storage.count(tenant, 'l', bytes) end
  end
  for name, bytes in pairs(changed) do call('HINCRBY', P .. 'meta:changed_v1', name, bytes) end
  jobs, logs, changed = {}, {}, {}
end

-- What is stored of documents and schedules together.
local function of_documents(tenant)
  local stored = call('HMGET', storage.key(tenant), 'd', 's')
  return (stored[1] or 0) + (stored[2] or 0)
end

-- A document that was `old` is `new` now, and stands for `held` bytes; each may be nothing. Whether it fits: if not, nothing was
-- counted. Only modules, tasks and secrets are limited.
function storage.take_document(shelf, name, old, new, held)
  local key, bytes = P .. 'meta:held:' .. shelf, held
  if old then bytes = bytes - #name - #old - (call('HGET', key, name) or 0) end
  if new then bytes = bytes + #name + #new end
  local tenant, kind = string.match(shelf, '^([^,]*),(.*)$')
  if new and bytes > 0 and (kind == 'module' or kind == 'task' or kind == 'secret') then
    local limit = storage.limit(tenant, 'd')
    if limit > 0 and of_documents(tenant) + bytes > limit then return false end
  end
  if held > 0 then call('HSET', key, name, held) else call('HDEL', key, name) end
  if bytes ~= 0 then
    storage.count(tenant, 'd', bytes)
    note(tenant, 'd', bytes)
    if kind == 'module' then
      storage.count(tenant, 'm', bytes)
      note(tenant, 'm', bytes)
    end
    storage.flush()
  end
  return true
end

-- Counts so many bytes more of key-value entries, or fewer.
function storage.add_entry(tenant, bytes)
  if bytes == 0 then return end
  storage.count(tenant, 'k', bytes)
  note(tenant, 'k', bytes)
end

-- The same, if they fit where each tenant may store `most`; whether they do.
function storage.take_entry(tenant, bytes, most)
  if bytes > 0 then
    local own_limit = is_anything_special() and tonumber(call('HGET', P .. 'control:;' .. tenant, 'k') or 0) or 0
    local limit = own_limit > 0 and own_limit or most
    if limit > 0 and (call('HGET', storage.key(tenant), 'k') or 0) + bytes > limit then return false end
  end
  storage.add_entry(tenant, bytes)
  return true
end

-- Counts so many bytes more of schedules, or fewer.
function storage.add_schedule(tenant, bytes)
  if bytes == 0 then return end
  storage.count(tenant, 's', bytes)
  note(tenant, 's', bytes)
end

-- Whether so many bytes more of schedules fit.
function storage.schedule_fits(tenant, bytes)
  local limit = storage.limit(tenant, 'd')
  return limit == 0 or of_documents(tenant) + bytes <= limit
end

-- Counts so many bytes more of blobs, or fewer.
function storage.add_blob(tenant, bytes)
  storage.count(tenant, 'b', bytes)
  note(tenant, 'b', bytes)
end

-- Whether so many bytes of blobs fit where each tenant may store `most`.
function storage.blobs_fit(tenant, bytes, most)
  local own_limit = is_anything_special() and tonumber(call('HGET', P .. 'control:;' .. tenant, 'b') or 0) or 0
  local limit = own_limit > 0 and own_limit or most
  return limit == 0 or (call('HGET', storage.key(tenant), 'b') or 0) + bytes <= limit
end

-- What a tenant may store of jobs (`j`) or documents (`d`); 0: any number.
function storage.limit(tenant, field)
  local of = own[tenant]
  if not of then
    of = is_anything_special() and call('HMGET', P .. 'control:;' .. tenant, 'j', 'd') or {}
    of = { j = tonumber(of[1] or 0), d = tonumber(of[2] or 0) }
    own[tenant] = of
  end
  return of[field] > 0 and of[field] or each[field]
end

-- Counts bytes of jobs, if they fit; whether they do. The counter is read as it is written.
local function reserve(tenant, bytes)
  jobs[tenant] = (jobs[tenant] or 0) + bytes
  local limit = storage.limit(tenant, 'j')
  if limit == 0 then return true end
  if not before[tenant] then
    before[tenant] = call('HINCRBY', storage.key(tenant), 'j', jobs[tenant])
    jobs[tenant] = 0
  end
  if before[tenant] + jobs[tenant] <= limit then return true end
  jobs[tenant] = jobs[tenant] - bytes
  return false
end

-- The same of bytes that are to be stored.
function storage.take(tenant, bytes)
  if bytes == 0 then return true end
  local fits = reserve(tenant, bytes)
  if fits then note(tenant, 'j', bytes) end
  return fits
end

-- Whether bytes fit that are counted when they are stored.
function storage.fits(tenant, bytes)
  if bytes == 0 then return true end
  local fits = reserve(tenant, bytes)
  if fits then jobs[tenant] = jobs[tenant] - bytes end
  return fits
end

-- The failure of a job whose result does not fit. A small result is stored all the same.
local QUOTA = '{"kind":"storage_quota","message":"it succeeded, but its result was not kept: the tenant has stored as many bytes of jobs as it may ('
local USED = '%.0f of %.0f bytes are stored'
local BEHIND_USED = '); forget jobs, purge queues, keep results shorter, or let an operator raise the limit; then redrive it"}'
local FREE_RESULT_BYTES = 4096

-- Of a tenant for which something did not fit.
function storage.quota(tenant)
  local used = string.format(USED, before[tenant] + jobs[tenant], storage.limit(tenant, 'j'))
  return QUOTA .. used .. BEHIND_USED
end

-- Whether a failure is this one. Releases before this one say no numbers.
function storage.is_quota(failure)
  return sub(failure, 1, 23) == '{"kind":"storage_quota"'
end

function storage.refuses_result(tenant, text)
  local bytes = storage.of_result(text)
  return bytes > FREE_RESULT_BYTES and not storage.fits(tenant, bytes)
end

-- The same of a result with all that stands in a record behind it.
function storage.refuses(member, ending)
  local length = unpack_struct('<I4', ending)
  local is_apart = byte(ending, 5) == 123 and byte(ending, 7) == 36
  if length <= FREE_RESULT_BYTES and not is_apart then return false end
  return storage.refuses_result(tenant_of(member), sub(ending, 5, 4 + length))
end

-- ---- what a job takes

-- An attempt that is kept apart. One in the record has its length in front.
function storage.attempt(entry)
  return #entry + 4
end

-- A result whose first bytes these are: a large one is in the module store, and its text says how large it is.
local function apart_of(text)
  if sub(text, 1, 9) ~= '{"$umbel:' then return 0 end
  return tonumber(string.match(text, '^{"%$umbel:stored":{"sha256":"[%w:]+","bytes":(%d+),"of":"%w+"}}$')) or 0
end

function storage.of_result(text)
  return #text + apart_of(text)
end

-- The result, failure, progress, history and usage in a record. The name of a workflow that replaced the job is no result.
function storage.left(r)
  local left = #r[FAILURE] + #r[PROGRESS] + #r[HISTORY] + #r.used
  if has(r[FLAGS], REPLACED) then return left end
  return left + storage.of_result(r[RESULT])
end

-- The same of all that stands in a record behind its immutable part.
function storage.left_in(ending)
  local apart = 0
  if byte(ending, 5) == 123 and byte(ending, 7) == 36 then
    apart = apart_of(sub(ending, 5, 4 + unpack_struct('<I4', ending)))
  end
  return #ending - 17 + apart
end

-- The bytes that a spec refers to, which is in front of `beyond` more bytes: a reference to large arguments is its last field.
local TAIL = 240
function storage.arguments_apart(text, beyond)
  local last = #text - beyond
  local a, b, c = byte(text, last - 2, last)
  if a ~= 34 or b ~= 125 or c ~= 125 then return 0 end
  local pattern = ',"stored_arguments":{"sha256":"[%w:]+","bytes":(%d+),"of":"%w+"}}$'
  return tonumber(string.match(sub(text, math.max(1, last - TAIL), last), pattern)) or 0
end

-- What is in front of a result in a record, with queue and task, however long they are, and more of most records.
local PREFIX = 1400

local function list_bytes(key, beyond)
  local bytes, entries = 0, call('LRANGE', key, 0, -1)
  for _, entry in ipairs(entries) do bytes = bytes + #entry + beyond end
  work_done = work_done + #entries / 8 + bytes / 4096
  return bytes
end

-- How much was read, in lists of jobs or elsewhere: as many jobs could have been measured meanwhile, about.
function storage.work_done(more)
  work_done = work_done + more
  return work_done
end

-- The bytes of a stored job, and those of its log; nothing of one that cannot be read.
local function measured(member)
  local key = P .. 'job:' .. member
  local text = call('GETRANGE', key, 0, PREFIX - 1)
  if not is_readable(text) then return 0, 0 end
  local size = #text < PREFIX and #text or call('STRLEN', key)
  local flags = byte(text, FLAGS)
  -- Behind token and worker: the length of the immutable part, then the names.
  local at = 74 + byte(text, 73)
  at = at + 1 + byte(text, at)
  local fixed, names = unpack_struct('<I4', text, at), at + 4
  local spec = workflows.links_at(text, names)
  local behind = names + fixed
  local sent = behind - spec
  if has(flags, NODE) then
    local _, _, _, _, edges, arguments = unpack_struct(workflows.LINKS, text, spec)
    sent = behind - arguments - 8 * edges
  elseif not has(flags, SPEC_APART) then
    local tail = behind - 1 <= #text and sub(text, math.max(spec, behind - TAIL), behind - 1)
      or call('GETRANGE', key, math.max(spec, behind - TAIL) - 1, behind - 2)
    sent = sent + storage.arguments_apart(tail, 0)
  end
  if has(flags, SPEC_APART) then
    local apart = P .. 'spec:' .. member
    sent = sent + call('STRLEN', apart)
    if not has(flags, NODE) then sent = sent + storage.arguments_apart(call('GETRANGE', apart, 0 - TAIL, -1), 0) end
  end
  -- The lengths of result, failure, progress and history, and the number of attempts.
  local left = size - behind + 1 - 17
  local result = unpack_struct('<I4', behind + 3 <= #text and sub(text, behind, behind + 3)
    or call('GETRANGE', key, behind - 1, behind + 2))
  if has(flags, REPLACED) then
    left = left - result
  elseif result > 0 and result < TAIL then
    left = left + apart_of(behind + 3 + result <= #text and sub(text, behind + 4, behind + 3 + result)
      or call('GETRANGE', key, behind + 3, behind + 2 + result))
  end
  if has(flags, HISTORY_APART) then left = left + list_bytes(P .. 'history:' .. member, 4) end
  local log = list_bytes(P .. 'log:' .. member, 0)
  return sent + left + log, log
end

-- The same also of one whose lengths make no sense: it must not stop the others.
function storage.job(member)
  local done, bytes, log = pcall(measured, member)
  if not done then return 0, 0 end
  return bytes, log
end

-- A job is about to be deleted.
function storage.give_back(member)
  local bytes, log = storage.job(member)
  storage.add(tenant_of(member), 0 - bytes, log > 0 and 0 - log or nil)
end
