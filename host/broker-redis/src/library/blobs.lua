-- Blobs of tenants: their records, and which jobs refer to them. The rules are those of the broker's blobs.rs and rules/blobs.rs.
--
-- `meta:blobs_v1:<tenant>` has by digest what RECORD says, and the media type behind it; the sorted set `meta:blob_names_v1:<tenant>`
-- the digests in order; the sorted set `meta:blobs_unused_v1` '<tenant>,<digest>' of blobs to which no job refers, since when;
-- `meta:blob_refs_v1:<tenant>` by a job's id the digests to which it refers, one behind the other. Digests are DIGEST raw bytes;
-- answers have them in hexadecimal digits. A process of an older release deletes jobs and leaves their references here.

-- Bytes, made at, unused since (0: jobs refer to it), how many jobs refer to it.
local RECORD, HEADER_BYTES = '<I7I6I6I6', 25
local DIGEST = 32
-- Beside its bytes; RECORD_BYTES in the broker's rules.
local RECORD_BYTES = 256
-- Records that one call reads or deletes; BLOB_STEP in the broker's contract.
local MOST = 1000

-- Of this call: records by tenant and digest, false for none; digests by tenant and id of a job, false for none; whether a tenant has
-- references. What was changed is written at the end.
local known, changed, refs, have_refs

resets[#resets + 1] = function() known, changed, refs, have_refs = {}, {}, {}, {} end

local function records_of(tenant)
  return P .. 'meta:blobs_v1:' .. tenant
end

local function names_of(tenant)
  return P .. 'meta:blob_names_v1:' .. tenant
end

local function refs_key(tenant)
  return P .. 'meta:blob_refs_v1:' .. tenant
end

function blobs.hex(digest)
  return (string.gsub(digest, '.', function(c) return string.format('%02x', byte(c)) end))
end

local function from_hex(text)
  return (string.gsub(text, '..', function(digits) return CHARS[tonumber(digits, 16)] end))
end

local function read(tenant, digest, text)
  local bytes, created, unused, references = unpack_struct(RECORD, text)
  return { tenant = tenant, digest = digest, bytes = bytes, created = created, unused = unused, references = references,
    content_type = sub(text, HEADER_BYTES + 1) }
end

local function write(b)
  call('HSET', records_of(b.tenant), b.digest,
    pack(RECORD, b.bytes, b.created, b.unused, b.references) .. b.content_type)
  local name = b.tenant .. ',' .. b.digest
  if b.unused > 0 then
    call('ZADD', P .. 'meta:blobs_unused_v1', b.unused, name)
  else
    call('ZREM', P .. 'meta:blobs_unused_v1', name)
  end
end

-- The record of a blob, or false.
local function find(tenant, digest)
  local name = tenant .. ',' .. digest
  local b = known[name]
  if b == nil then
    local text = call('HGET', records_of(tenant), digest)
    b = text and #text >= HEADER_BYTES and read(tenant, digest, text)
    known[name] = b
  end
  return b
end

local function change(b)
  changed[b.tenant .. ',' .. b.digest] = b
end

-- The blob is put again: it counts as used now.
local function touch(b)
  if b.unused == 0 then return end
  b.unused = now
  change(b)
end

-- Makes a record.
local function add(tenant, digest, bytes, content_type)
  local b = { tenant = tenant, digest = digest, bytes = bytes, created = now, unused = now, references = 0,
    content_type = content_type }
  known[tenant .. ',' .. digest] = b
  write(b)
  call('ZADD', names_of(tenant), 0, digest)
  storage.add_blob(tenant, bytes + RECORD_BYTES)
end

local function remove(b)
  known[b.tenant .. ',' .. b.digest] = false
  call('HDEL', records_of(b.tenant), b.digest)
  call('ZREM', names_of(b.tenant), b.digest)
  call('ZREM', P .. 'meta:blobs_unused_v1', b.tenant .. ',' .. b.digest)
  storage.add_blob(b.tenant, 0 - b.bytes - RECORD_BYTES)
end

function blobs.flush()
  for _, b in pairs(changed) do write(b) end
  for tenant, by_id in pairs(refs) do
    for id, digests in pairs(by_id.changed) do
      if digests then
        call('HSET', refs_key(tenant), id, digests)
      else
        call('HDEL', refs_key(tenant), id)
      end
    end
  end
  changed, refs, have_refs = {}, {}, {}
end

-- Why so many more blobs of so many bytes cannot be stored: M, S, or nothing.
local function no_room_for(tenant, new, bytes, max_blobs, max_bytes)
  if new == 0 then return end
  if call('HLEN', records_of(tenant)) + new > max_blobs then return 'M' end
  if not storage.blobs_fit(tenant, bytes, max_bytes) then return 'S' end
end

-- ---- references

-- The references of a job, '' when it has none.
local function refs_of(tenant, id)
  local by_id = refs[tenant]
  if by_id and by_id.changed[id] ~= nil then return by_id.changed[id] or '' end
  if have_refs[tenant] == nil then have_refs[tenant] = call('EXISTS', refs_key(tenant)) == 1 end
  return have_refs[tenant] and call('HGET', refs_key(tenant), id) or ''
end

local function set_refs(tenant, id, digests)
  refs[tenant] = refs[tenant] or { changed = {} }
  refs[tenant].changed[id] = digests
end

local function contains(digests, digest)
  for at = 1, #digests, DIGEST do
    if sub(digests, at, at + DIGEST - 1) == digest then return true end
  end
  return false
end

-- The first of these digests that the tenant does not have, and that is not in `own`.
function blobs.missing(tenant, digests, own)
  for at = 1, #digests, DIGEST do
    local digest = sub(digests, at, at + DIGEST - 1)
    if not (own and own[digest]) and not find(tenant, digest) then return digest end
  end
end

-- A stored job refers to these blobs, too.
function blobs.refer(member, digests)
  if #digests == 0 then return end
  local tenant, id = tenant_of(member), id_of(member)
  local all = refs_of(tenant, id)
  for at = 1, #digests, DIGEST do
    local digest = sub(digests, at, at + DIGEST - 1)
    if not contains(all, digest) then
      all = all .. digest
      local b = find(tenant, digest)
      if b then
        b.references, b.unused = b.references + 1, 0
        change(b)
      end
    end
  end
  set_refs(tenant, id, all)
end

-- A job is about to be deleted.
function blobs.release(member)
  local tenant, id = tenant_of(member), id_of(member)
  local digests = refs_of(tenant, id)
  if digests == '' then return end
  for at = 1, #digests, DIGEST do
    local b = find(tenant, sub(digests, at, at + DIGEST - 1))
    if b then
      b.references = math.max(b.references - 1, 0)
      if b.references == 0 then b.unused = now end
      change(b)
    end
  end
  set_refs(tenant, id, false)
end

-- ---- settles

-- What a settle says of blobs: most blobs and most bytes of a tenant; those that the attempt wrote; to which its result, and to which
-- its growth refers.
local SETTLED, WRITTEN = '<I7I7I2', '<c32I7Bc0'

function blobs.read_settled(text)
  local max_blobs, max_bytes, count, at = unpack_struct(SETTLED, text)
  local s = { max_blobs = max_blobs, max_bytes = max_bytes, written = {}, own = {} }
  for i = 1, count do
    local digest, bytes, content_type
    digest, bytes, content_type, at = unpack_struct(WRITTEN, text, at)
    s.written[i] = { digest = digest, bytes = bytes, content_type = content_type }
    s.own[digest] = true
  end
  s.refers, s.grown = unpack_struct('<I4c0I4c0', text, at)
  return s
end

-- Why they cannot be stored: M, S; or D and the digest that is missing; or nothing.
function blobs.refuses_settled(tenant, s)
  local new, bytes, seen = 0, 0, {}
  for _, w in ipairs(s.written) do
    if not seen[w.digest] and not find(tenant, w.digest) then new, bytes = new + 1, bytes + w.bytes + RECORD_BYTES end
    seen[w.digest] = true
  end
  local code = no_room_for(tenant, new, bytes, s.max_blobs, s.max_bytes)
  if code then return code end
  local missing = blobs.missing(tenant, s.refers, s.own) or blobs.missing(tenant, s.grown, s.own)
  if missing then return 'D', missing end
end

function blobs.store_settled(member, s)
  local tenant = tenant_of(member)
  for _, w in ipairs(s.written) do
    local b = find(tenant, w.digest)
    if b then touch(b) else add(tenant, w.digest, w.bytes, w.content_type) end
  end
  blobs.refer(member, s.refers)
end

-- ---- functions

-- Makes the record of a blob, or takes it as put again.
-- ARGV[2] tenant   ARGV[3] digest   ARGV[4] bytes   ARGV[5] media type or ''   ARGV[6] most blobs, ARGV[7] most bytes of a tenant
-- Returns C stored, P present, M too many blobs, S too many bytes.
-- Complexity: O(log N).
register('put_blob', '', function(args)
  local tenant, digest, bytes = args[2], args[3], tonumber(args[4])
  local b = find(tenant, digest)
  if b then
    touch(b)
    blobs.flush()
    return 'P'
  end
  local code = no_room_for(tenant, 1, bytes + RECORD_BYTES, tonumber(args[6]), tonumber(args[7]))
  if code then return code end
  add(tenant, digest, bytes, args[5])
  storage.flush()
  return 'C'
end)

-- Reads one blob.
-- ARGV[2] tenant   ARGV[3] digest
-- Returns { digest, record } or {}.
-- Complexity: O(1).
register('blob', 'no-writes', function(args)
  local text = call('HGET', records_of(args[2]), args[3])
  return text and { args[3], text } or {}
end)

-- Reads blobs by digest.
-- ARGV[2] tenant   ARGV[3] where to begin, as ZRANGEBYLEX has it   ARGV[4] max
-- Returns { digest, record, … }.
-- Complexity: O(log N + max).
register('blobs', 'no-writes', function(args)
  local out, n = {}, 0
  for _, digest in ipairs(call('ZRANGEBYLEX', names_of(args[2]), args[3], '+', 'LIMIT', 0, math.min(tonumber(args[4]), MOST))) do
    local text = call('HGET', records_of(args[2]), digest)
    if text then
      out[n + 1], out[n + 2], n = digest, text, n + 2
    end
  end
  return out
end)

-- Deletes the record of a blob to which no job refers.
-- ARGV[2] tenant   ARGV[3] digest
-- Returns -1 when there is none, the number of jobs that refer to it, or 0 when it was deleted.
-- Complexity: O(log N).
register('delete_blob', 'allow-oom', function(args)
  local b = find(args[2], args[3])
  if not b then return -1 end
  if b.references > 0 then return b.references end
  remove(b)
  storage.flush()
  return 0
end)

-- Deletes the records of blobs that were unused for so long, those first that are unused longest.
-- ARGV[2] how long, milliseconds   ARGV[3] max
-- Returns { tenant, digest, … }.
-- Complexity: O(max log N).
register('collect_blobs', 'allow-oom', function(args)
  local out, until_ms, max = {}, now - tonumber(args[2]), math.min(tonumber(args[3]), MOST)
  if until_ms < 0 or max == 0 then return out end
  for _, name in ipairs(call('ZRANGEBYSCORE', P .. 'meta:blobs_unused_v1', '-inf', until_ms, 'LIMIT', 0, max)) do
    local tenant, digest = sub(name, 1, -2 - DIGEST), sub(name, 0 - DIGEST)
    local b = find(tenant, digest)
    if b and b.references == 0 then
      remove(b)
      out[#out + 1], out[#out + 2] = tenant, digest
    else
      call('ZREM', P .. 'meta:blobs_unused_v1', name)
    end
  end
  storage.flush()
  return out
end)

-- ---- counting anew, and audits

-- What blobs of a tenant take, those behind the digest `from` in hexadecimal digits: their bytes, how many they are, and the last
-- one when there are more.
function blobs.measure(tenant, from, max)
  local bytes = 0
  local digests = call('ZRANGEBYLEX', names_of(tenant), from == '' and '-' or '(' .. from_hex(from), '+', 'LIMIT', 0, max)
  for _, digest in ipairs(digests) do
    local text = call('HGET', records_of(tenant), digest)
    if text then bytes = bytes + unpack_struct('<I7', text) + RECORD_BYTES end
  end
  return bytes, #digests, #digests == max and blobs.hex(digests[max]) or nil
end

-- Some jobs with references, from a cursor on: calls `look` with the id of each. The next cursor.
function blobs.each_job(tenant, cursor, count, look)
  local scanned = call('HSCAN', refs_key(tenant), cursor, 'COUNT', count)
  for i = 1, #scanned[2], 2 do look(scanned[2][i]) end
  return scanned[1]
end

-- Compares the records of a tenant with all references, if there are at most `most` of both together: calls `wrong` with the digest of
-- each that differs, and a function that mends it.
function blobs.compare(tenant, most, wrong)
  if call('HLEN', records_of(tenant)) + call('HLEN', refs_key(tenant)) > most then return end
  local counts = {}
  for _, digests in ipairs(call('HVALS', refs_key(tenant))) do
    for at = 1, #digests, DIGEST do
      local digest = sub(digests, at, at + DIGEST - 1)
      counts[digest] = (counts[digest] or 0) + 1
    end
  end
  local fields = call('HGETALL', records_of(tenant))
  for i = 1, #fields, 2 do
    local b, real = read(tenant, fields[i], fields[i + 1]), counts[fields[i]] or 0
    local score = tonumber(call('ZSCORE', P .. 'meta:blobs_unused_v1', tenant .. ',' .. b.digest) or 0)
    local is_named = call('ZSCORE', names_of(tenant), b.digest)
    if b.references ~= real or (b.unused == 0) ~= (real > 0) or score ~= b.unused or not is_named then
      wrong(blobs.hex(b.digest), function()
        b.references = real
        if real > 0 then b.unused = 0 elseif b.unused == 0 then b.unused = now end
        write(b)
        call('ZADD', names_of(tenant), 0, b.digest)
      end)
    end
  end
end
