-- Labels: the tags and headers of jobs, by which lists find them. `meta:label:<tenant>,<hash>` has the ids of the jobs with a
-- label, `meta:labels:<tenant>` the labels of a job by its id: hashes of HASH characters, one behind the other. Only jobs that
-- have any are in them; nodes are not.
--
-- A process of an older release stores jobs without their labels, and with each submission takes numbers of arrivals from
-- `seq`. It does not know `meta:seq`, in which the others write down what they made of `seq`: while both are the same, none
-- of them has submitted. `meta:labels_v1` says whether the labels of all jobs are here: `complete`, or `building <token>` of
-- the process that looks through all jobs. Whoever meets two different numbers makes them the same and deletes it.

local HASH = 20
local COMPLETE = 'complete'
-- What the specs of jobs with tags or headers contain.
local TAGS, HEADERS = '"tags":[', '"headers":{'

-- Of this call: labels by id that are new, ids whose labels are gone, whether a tenant has jobs with labels; whether the labels
-- of all jobs are known, once that was looked at.
local new, gone, have_labels, is_complete

resets[#resets + 1] = function() new, gone, have_labels, is_complete = {}, {}, {}, nil end

local function collected(lists, tenant)
  local list = lists[tenant]
  if not list then
    list = { n = 0 }
    lists[tenant] = list
  end
  return list
end

local function index_of(tenant, hash)
  return P .. 'meta:label:' .. tenant .. ',' .. hash
end

-- Calls `act` with the index of each of these labels.
function labels.each(tenant, hashes, act)
  for at = 1, #hashes, HASH do act(index_of(tenant, sub(hashes, at, at + HASH - 1))) end
end

-- Lists find a new job by these labels.
function labels.add(tenant, id, hashes)
  labels.each(tenant, hashes, function(index) zadd(index, '0', id) end)
  local list = collected(new, tenant)
  list[list.n + 1], list[list.n + 2], list.n = id, hashes, list.n + 2
end

-- The job is deleted.
function labels.drop(tenant, id)
  local key = P .. 'meta:labels:' .. tenant
  if have_labels[tenant] == nil then have_labels[tenant] = call('EXISTS', key) == 1 end
  local hashes = have_labels[tenant] and call('HGET', key, id)
  if not hashes then return end
  labels.each(tenant, hashes, function(index) zrem(index, id) end)
  local list = collected(gone, tenant)
  list[list.n + 1], list.n = id, list.n + 1
end

function labels.flush()
  for tenant, list in pairs(new) do in_pieces('HSET', P .. 'meta:labels:' .. tenant, list) end
  for tenant, list in pairs(gone) do in_pieces('HDEL', P .. 'meta:labels:' .. tenant, list) end
  new, gone = {}, {}
end

-- Whether a job that is there has a label.
function labels.has(tenant, id, hash)
  local hashes, found = call('HGET', P .. 'meta:labels:' .. tenant, id), false
  if not hashes or call('EXISTS', P .. 'job:' .. tenant .. ',' .. id) == 0 then return false end
  labels.each(tenant, hashes, function(index) found = found or index == index_of(tenant, hash) end)
  return found
end

-- The store is empty.
function labels.trust()
  call('SET', P .. 'meta:labels_v1', COMPLETE)
end

-- A process of an older release submitted.
function labels.distrust()
  call('DEL', P .. 'meta:labels_v1')
end

local function state()
  return arrivals.last == arrivals.last_known and call('GET', P .. 'meta:labels_v1')
end

function labels.are_complete()
  if is_complete == nil then is_complete = state() == COMPLETE end
  return is_complete
end

-- The index of the rarest of these labels; nothing when the labels of some jobs are not here.
function labels.index_for(tenant, hashes)
  if not labels.are_complete() then return end
  local best, least
  for _, hash in ipairs(hashes) do
    local index = index_of(tenant, hash)
    local size = call('ZCARD', index)
    if not least or size < least then best, least = index, size end
  end
  return best
end

-- Whether a job may have labels. `text` has what its record has of its spec.
function labels.may_have_some(flags, text)
  return has(flags, SPEC_APART) or string.find(text, TAGS, 1, true) or string.find(text, HEADERS, 1, true)
end

-- The spec of a job if it may have labels that are not here; `inline` is what its record has of it.
function labels.missing_in(member, flags, inline)
  local spec = has(flags, SPEC_APART) and (call('GET', P .. 'spec:' .. member) or '') or inline
  if not string.find(spec, TAGS, 1, true) and not string.find(spec, HEADERS, 1, true) then return end
  if call('HEXISTS', P .. 'meta:labels:' .. tenant_of(member), id_of(member)) == 0 then return spec end
end

-- Whether the labels of all jobs are here.
-- Complexity: O(1).
register('has_labels', 'no-writes', function()
  return labels.are_complete() and 1 or 0
end)

-- Begins to look through all jobs.
-- ARGV[2] token
-- Complexity: O(1).
register('begin_labels', '', function(args)
  arrivals.take(0)
  call('SET', P .. 'meta:labels_v1', 'building ' .. args[2])
end)

-- Adds labels of jobs, unless they were begun anew.
-- ARGV[2] what `meta:labels_v1` has to say   ARGV[3…] member, hashes, …
-- Returns 1, or 0 when it says something else.
-- Complexity: O(n log N).
register('add_labels', '', function(args)
  if state() ~= args[2] then return 0 end
  for i = 3, #args, 2 do
    local head = call('GETRANGE', P .. 'job:' .. args[i], 0, 2)
    if #head == 3 and not has(byte(head, FLAGS), NODE) then labels.add(tenant_of(args[i]), id_of(args[i]), args[i + 1]) end
  end
  flush()
  return 1
end)

-- All jobs were looked through.
-- ARGV[2] token
-- Returns 1, or 0 when a process of an older release submitted meanwhile, or another process began.
-- Complexity: O(1).
register('finish_labels', '', function(args)
  if state() ~= 'building ' .. args[2] then return 0 end
  labels.trust()
  return 1
end)
