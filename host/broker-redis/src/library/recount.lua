-- Counting anew what tenants have stored; see storage.rs.

-- What changes while somebody works.
-- Returns { number of the last arrival or '', leases }.
-- Complexity: O(1).
register('pulse', 'no-writes', function()
  return { call('GET', P .. 'seq') or '', call('ZCARD', P .. 'leases') }
end)

-- Whether all is to be counted anew, which the caller then does.
-- ARGV[2] how often, milliseconds
-- Returns 1 or 0.
-- Complexity: O(1).
register('is_recount_due', 'allow-oom', function(args)
  local key = P .. 'meta:recounted_v1'
  local last = tonumber(call('GET', key) or '')
  -- The clock may have been set back.
  if last and last <= now and now - last < tonumber(args[2]) then return 0 end
  call('SET', key, now)
  return 1
end)

local measures = {
  job = storage.job,
  wf = function(member) return tonumber(call('HGET', P .. 'wft:' .. member, 'b') or 0), 0 end,
}

-- The documents of a kind, and those that are modules.
local function measure_documents(shelf)
  local key, held, bytes = P .. 'doc:' .. shelf, P .. 'meta:held:' .. shelf, 0
  for _, name in ipairs(call('HKEYS', key)) do
    bytes = bytes + #name + call('HSTRLEN', key, name) + (call('HGET', held, name) or 0)
  end
  return bytes, sub(shelf, -7) == ',module' and bytes or 0
end

-- What keys of a tenant take.
-- ARGV[2] job, wf or doc   ARGV[3…] names behind that
-- Returns bytes of jobs and workflows, of logs, of documents, of modules.
-- Complexity: O(n), with the log lines and the documents.
register('measure', 'no-writes', function(args)
  local kind, all, part = args[2], 0, 0
  local measure = measures[kind] or measure_documents
  for i = 3, #args do
    local more, of_part = measure(args[i])
    all, part = all + more, part + of_part
  end
  if kind == 'doc' then return { 0, 0, all, part } end
  return { all, part, 0, 0 }
end)

-- Sets the counters of a tenant.
-- ARGV[2] tenant   ARGV[3…6] as measure answers
-- Complexity: O(1).
register('recount', 'allow-oom', function(args)
  local key = storage.key(args[2])
  call('UNLINK', key)
  for i, field in ipairs({ 'j', 'l', 'd', 'm' }) do
    if args[2 + i] ~= '0' then call('HSET', key, field, args[2 + i]) end
  end
end)
