-- Workers, the orders to them, and documents.

-- Keeps, forgets and lists workers.
-- ARGV[2] time to live, milliseconds   ARGV[3] id, or '' to list   ARGV[4] what it says of itself, or '' to forget it
-- Returns what the workers alive say, in no order; of one that says something the order to it, if there is one.
-- Complexity: O(number of workers) to list, O(log N) otherwise.
register('workers', 'allow-oom', function(args)
  local seen, infos, orders, counting = P .. 'workers_seen', P .. 'workers', P .. 'orders', P .. 'meta:workers_v1'

  local function forget(id)
    call('HDEL', infos, id)
    call('HDEL', orders, id)
    call('ZREM', seen, id)
    call('ZREM', counting, id)
  end

  -- The silent are forgotten whenever anybody comes.
  for _, id in ipairs(call('ZRANGEBYSCORE', seen, '-inf', now - tonumber(args[2]), 'LIMIT', 0, 1000)) do forget(id) end
  if args[3] == '' then return call('HVALS', infos) end
  if args[4] == '' then
    forget(args[3])
    return {}
  end
  call('HSET', infos, args[3], args[4])
  call('ZADD', seen, now, args[3])
  -- Whoever does not write this does not count bytes.
  call('ZADD', counting, now, args[3])
  return { call('HGET', orders, args[3]) or '' }
end)

-- Reads the order to a worker, or replaces it. Also when Redis is full: a worker must hear that it has to stop.
-- ARGV[2] time to live, milliseconds   ARGV[3] id   ARGV[4] the order that was read, or ''   ARGV[5] its replacement, or '' to
--   read
-- Returns { 'U' } when no such worker is alive, { 'S' } when the order was replaced, { 'R', order or '', what it says of
--   itself } otherwise.
-- Complexity: O(log N).
register('order', 'allow-oom', function(args)
  local seen = tonumber(call('ZSCORE', P .. 'workers_seen', args[3]))
  if not seen or seen + tonumber(args[2]) <= now then return { 'U' } end
  local order = call('HGET', P .. 'orders', args[3]) or ''
  if args[5] == '' or order ~= args[4] then return { 'R', order, call('HGET', P .. 'workers', args[3]) or '' } end
  call('HSET', P .. 'orders', args[3], args[5])
  return { 'S' }
end)

-- Stores or deletes a document if its version is as expected.
-- ARGV[2] '<tenant>,<kind>'   ARGV[3] name   ARGV[4] expected version, or '' for any   ARGV[5] '1' to store, '0' to delete
-- ARGV[6] body   ARGV[7] max documents   ARGV[8] bytes that it stands for
-- Returns { letter, version }: S stored, C conflict, F full, B too many bytes of the tenant.
-- Complexity: O(log N). A hash holds '<version> <body>' by name, a sorted set the names in order, another hash the bytes that
-- documents stand for.
local function put_document(args)
  local bodies, names, name = P .. 'doc:' .. args[2], P .. 'docs:' .. args[2], args[3]
  local stored = call('HGET', bodies, name)
  local found = stored and tonumber(string.match(stored, '^%d+')) or 0
  if args[4] ~= '' and tonumber(args[4]) ~= found then return { 'C', found } end
  if args[5] == '0' then
    call('HDEL', bodies, name)
    call('ZREM', names, name)
    if stored then storage.take_document(args[2], name, stored, nil, 0) end
    return { 'S', 0 }
  end
  if found == 0 and call('HLEN', bodies) >= tonumber(args[7]) then return { 'F', 0 } end
  local text = string.format('%.0f ', found + 1) .. args[6]
  if not storage.take_document(args[2], name, stored, text, tonumber(args[8])) then return { 'B', 0 } end
  call('HSET', bodies, name, text)
  call('ZADD', names, 0, name)
  return { 'S', found + 1 }
end
register('put_document', '', put_document)
-- Deleting makes room, so a full Redis lets it be.
register('delete_document', 'allow-oom', put_document)

-- A page of documents of a kind by name. The one that reaches PAGE_BYTES of bodies is the last.
-- ARGV[2] '<tenant>,<kind>'   ARGV[3] '' or the name after which to begin, marked with '('   ARGV[4] max
-- Returns name, '<version> <body>', … in order.
-- Complexity: O(log N + max).
register('documents', 'no-writes', function(args)
  local from = args[3]
  if from == '' then from = '-' end
  local out, bytes = {}, 0
  for _, name in ipairs(call('ZRANGEBYLEX', P .. 'docs:' .. args[2], from, '+', 'LIMIT', 0, tonumber(args[4]))) do
    local n, stored = #out, call('HGET', P .. 'doc:' .. args[2], name)
    out[n + 1], out[n + 2] = name, stored
    bytes = bytes + #stored - string.find(stored, ' ', 1, true)
    if bytes >= PAGE_BYTES then break end
  end
  return out
end)
