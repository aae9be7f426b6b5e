-- Key-value entries of tenants. The rules are those of the broker's rules/kv.rs.
--
-- Of each bucket, `meta:kv_v1:<tenant>,<bucket>` is a hash: behind ENTRY by key, version, expiry (0: none) and value. The sorted
-- set `meta:kv_names_v1:<tenant>,<bucket>` has the keys in order, `meta:kv_buckets_v1:<tenant>` the buckets that have entries, the
-- hash `meta:kv_versions_v1` the last version by tenant, and `meta:kv_expiry_v1` '<tenant>,<bucket>,<key>' by expiry.

local ENTRY, HEADER_BYTES = '<I7I6', 13
-- Beside key and value; ENTRY_BYTES in the broker's rules.
local ENTRY_BYTES = 64
-- Entries that one page looks at; PAGE_SCAN in the broker's contract.
local PAGE_SCAN = 1000
-- Expired entries that one step deletes.
local EXPIRED = 200

local function bucket_of(tenant, bucket)
  local name = tenant .. ',' .. bucket
  return { tenant = tenant, bucket = bucket, name = name, entries = P .. 'meta:kv_v1:' .. name,
    names = P .. 'meta:kv_names_v1:' .. name }
end

-- Version and expiry of a stored entry; nothing of one that has expired, or is not there.
local function alive(entry)
  if not entry then return end
  local version, expires = unpack_struct(ENTRY, entry)
  if expires == 0 or expires > now then return version, expires end
end

local function size_of(key, stored_bytes)
  return #key + stored_bytes - HEADER_BYTES + ENTRY_BYTES
end

-- Deletes an entry that is stored in so many bytes.
local function delete(of, key, stored_bytes)
  call('HDEL', of.entries, key)
  call('ZREM', of.names, key)
  call('ZREM', P .. 'meta:kv_expiry_v1', of.name .. ',' .. key)
  if call('EXISTS', of.names) == 0 then call('ZREM', P .. 'meta:kv_buckets_v1:' .. of.tenant, of.bucket) end
  storage.add_entry(of.tenant, 0 - size_of(key, stored_bytes))
end

-- The sum of two numbers of 64 bits, as text; nothing and whether the first one is a number when there is none. Lua's numbers
-- have 53 bits, those of Redis 64.
local function sum_of(number, delta)
  local key = P .. 'meta:kv_sum_v1'
  call('HSET', key, 'n', number)
  local answer, is_number = redis.pcall('HINCRBY', key, 'n', 0), true
  if type(answer) == 'table' then
    answer, is_number = nil, false
  else
    answer = redis.pcall('HINCRBY', key, 'n', delta)
    answer = type(answer) ~= 'table' and call('HGET', key, 'n') or nil
  end
  call('DEL', key)
  return answer, is_number
end

-- Whether a delivery is the current one of a running job.
local function is_current(member, token)
  local text = call('GETRANGE', P .. 'job:' .. member, 0, 279)
  if not is_readable(text) then return false end
  local _, state, _, _, _, _, _, _, _, _, _, _, _, _, _, _, current = unpack_struct(HEAD, text)
  return state == RUNNING and current == token
end

-- Stores, changes or deletes an entry, if it is as expected.
-- ARGV[2] tenant   ARGV[3] bucket   ARGV[4] key   ARGV[5] expected version, '0' for none, '' for any
-- ARGV[6] 's' to set, 'a' to add, 'd' to delete   ARGV[7] the value, or the number to add   ARGV[8] the number to add it to when
--   there is none   ARGV[9] time to live, milliseconds, '0' for ever   ARGV[10] id of the job that writes, or ''
-- ARGV[11] its token   ARGV[12] most bytes of a value, ARGV[13] most buckets, ARGV[14] most bytes of a tenant
-- Returns { letter, number, text }: S stored (version), N counted (version, number), D deleted (1 when there was one), C conflict
--   (version found), L no current delivery, T too large, X no number, O overflow, M too many buckets, F too many bytes.
-- Complexity: O(log N), and the bytes of the value.
local function write(args)
  local of, key, kind = bucket_of(args[2], args[3]), args[4], args[6]
  if args[10] ~= '' and not is_current(of.tenant .. ',' .. args[10], args[11]) then return { 'L', 0, '' } end
  local old = call('HGET', of.entries, key)
  local version, expires = alive(old)
  if args[5] ~= '' and tonumber(args[5]) ~= (version or 0) then return { 'C', version or 0, '' } end
  if kind == 'd' then
    if not version then return { 'D', 0, '' } end
    delete(of, key, #old)
    storage.flush()
    return { 'D', 1, '' }
  end
  local value, ttl = args[7], tonumber(args[9])
  if kind == 's' or not version then expires = ttl > 0 and math.min(now + ttl, MAX_MS) or 0 end
  if kind == 's' then
    if #value > tonumber(args[12]) then return { 'T', tonumber(args[12]), '' } end
  else
    local sum, is_number = sum_of(version and sub(old, HEADER_BYTES + 1) or args[8], value)
    if not sum then return { is_number and 'O' or 'X', 0, '' } end
    value = sum
  end
  local buckets = P .. 'meta:kv_buckets_v1:' .. of.tenant
  if not old and not call('ZSCORE', buckets, of.bucket) then
    if call('ZCARD', buckets) >= tonumber(args[13]) then return { 'M', tonumber(args[13]), '' } end
    call('ZADD', buckets, 0, of.bucket)
  end
  local bytes = #key + #value + ENTRY_BYTES
  if old then bytes = bytes - size_of(key, #old) end
  if not storage.take_entry(of.tenant, bytes, tonumber(args[14])) then
    if call('EXISTS', of.names) == 0 then call('ZREM', buckets, of.bucket) end
    return { 'F', 0, '' }
  end
  local new = call('HINCRBY', P .. 'meta:kv_versions_v1', of.tenant, 1)
  call('HSET', of.entries, key, pack(ENTRY, new, expires) .. value)
  if not old then call('ZADD', of.names, 0, key) end
  local timed = of.name .. ',' .. key
  if expires > 0 then
    call('ZADD', P .. 'meta:kv_expiry_v1', expires, timed)
  elseif old and select(2, unpack_struct(ENTRY, old)) > 0 then
    call('ZREM', P .. 'meta:kv_expiry_v1', timed)
  end
  storage.flush()
  if kind == 's' then return { 'S', new, '' } end
  return { 'N', new, value }
end
register('kv_write', '', write)
-- Deleting makes room, so a full Redis lets it be.
register('kv_delete', 'allow-oom', write)

-- Entries of some keys.
-- ARGV[2] tenant   ARGV[3] bucket   ARGV[4…] keys
-- Returns for each what is stored, or '' when there is no entry.
-- Complexity: O(keys), and the bytes of their values.
register('kv_get', 'no-writes', function(args)
  local found = call('HMGET', P .. 'meta:kv_v1:' .. args[2] .. ',' .. args[3], unpack(args, 4))
  for i = 1, #found do
    if not alive(found[i]) then found[i] = '' end
  end
  return found
end)

-- Entries by key. The one that reaches PAGE_BYTES of keys and values, or is the PAGE_SCAN-th, is the last of the page, whether it
-- has expired or not.
-- ARGV[2] tenant   ARGV[3] bucket   ARGV[4], ARGV[5] where to begin and to end, as ZRANGEBYLEX has it   ARGV[6] max
-- Returns the key after which the next page begins, or ''; then key, what is stored, …
-- Complexity: O(log N + PAGE_SCAN), and the bytes of the page.
register('kv_list', 'no-writes', function(args)
  local of, max, out, n, bytes = bucket_of(args[2], args[3]), tonumber(args[6]), { '' }, 1, 0
  for i, key in ipairs(call('ZRANGEBYLEX', of.names, args[4], args[5], 'LIMIT', 0, PAGE_SCAN)) do
    local entry = call('HGET', of.entries, key)
    bytes = bytes + #key + (entry and #entry - HEADER_BYTES or 0)
    if alive(entry) then
      out[n + 1], out[n + 2] = key, entry
      n = n + 2
    end
    if n > 2 * max or bytes >= PAGE_BYTES or i == PAGE_SCAN then
      out[1] = key
      break
    end
  end
  return out
end)

-- Buckets that have entries.
-- ARGV[2] tenant
-- Returns name, entries, … by name.
-- Complexity: O(buckets).
register('kv_buckets', 'no-writes', function(args)
  local out, n = {}, 0
  for _, bucket in ipairs(call('ZRANGE', P .. 'meta:kv_buckets_v1:' .. args[2], 0, -1)) do
    out[n + 1], out[n + 2] = bucket, call('ZCARD', bucket_of(args[2], bucket).names)
    n = n + 2
  end
  return out
end)

-- Deletes the first entries of a bucket.
-- ARGV[2] tenant   ARGV[3] bucket   ARGV[4] max
-- Returns { how many, 1 when there are more }.
-- Complexity: O(max log N).
register('kv_delete_bucket', 'allow-oom', function(args)
  local of, max = bucket_of(args[2], args[3]), tonumber(args[4])
  local keys = max > 0 and call('ZRANGE', of.names, 0, max - 1) or {}
  for _, key in ipairs(keys) do delete(of, key, call('HSTRLEN', of.entries, key)) end
  storage.flush()
  return { #keys, call('EXISTS', of.names) }
end)

-- Deletes entries that have expired; whether there may be more.
function kv.prune()
  local names = call('ZRANGEBYSCORE', P .. 'meta:kv_expiry_v1', '-inf', now, 'LIMIT', 0, EXPIRED)
  for _, name in ipairs(names) do
    local tenant, bucket, key = string.match(name, '^([^,]*),([^,]*),(.*)$')
    local of = bucket_of(tenant, bucket)
    local bytes = call('HSTRLEN', of.entries, key)
    if bytes > 0 then delete(of, key, bytes) else call('ZREM', P .. 'meta:kv_expiry_v1', name) end
  end
  return #names == EXPIRED
end

-- What entries of a bucket take, those behind the key `from`: their bytes, how many they are, and the last key when there are more.
function kv.measure(name, from, max)
  local tenant, bucket = string.match(name, '^([^,]*),(.*)$')
  local of, bytes = bucket_of(tenant, bucket), 0
  local keys = call('ZRANGEBYLEX', of.names, from == '' and '-' or '(' .. from, '+', 'LIMIT', 0, max)
  for _, key in ipairs(keys) do
    local stored = call('HSTRLEN', of.entries, key)
    if stored > 0 then bytes = bytes + size_of(key, stored) end
  end
  return tenant, bytes, #keys, #keys == max and keys[max] or nil
end
