-- Workflows: what is stored of them, what follows from the end of a node, and what one is handed out with.
--
-- A workflow is named by its prefix, '<tenant>,' and the first 20 digits of its id; the last 6 are its nodes'. Node n has
-- the id whose last 30 bits are n + 1. The rules are those of the broker's canvas.rs. nodes.rs writes and reads the same
-- formats. A node is a job or a join (in keys and HTTP a `gate`), which is the end of a group and runs nothing.
-- Workflows and joins are read once by a call, and written once, by work.flush().

-- Version, state, how cancelled (a job's state, or 0), status of the end + 1 or 0, whether the job that it replaced was
-- deleted, nodes, end, depth, templates, nodes deleted, created, deadline (a duration), finished, kept (a duration), its
-- jobs by state, the job that it replaces.
local WORKFLOW = '<BBBBBI4I4I4I4I4I6I6I6I6I4I4I4I4I4I4I4I4I4I4Bc0'
local STAGED, STARTED, DONE, FLOPPED, STOPPED, LATE = 0, 1, 2, 3, 4, 5
-- Priority, kind of start, start, expiry, deliveries, nodes, queue, task; the spec follows.
local TEMPLATE = '<BBI6I6I4I4Bc0Bc0'
-- In a node's immutable part behind queue and task: template, bits, source, group, number of edges. The edges follow, as
-- pairs of first and count, then the arguments.
local LINKS = '<I3BI4I4I3'
-- Version, bits, status + 1 or 0, pending, failed, skipped, source, group, ranges of edges, of members, of scope.
local JOIN = '<BBBI4I4I4I4I4I3I3I3'
local NOBODY = 4294967295
-- Bits: waits for failure; on_failure is 0 fail, 1 continue, 2 ignore, twice that; takes its source's result (of a join:
-- the first failure cancels its scope); it is a link, which older releases do not look at.
local ON_FAILURE_BIT, THIRD_BIT = 2, 8
workflows.LINK_BIT = 16
local OK, FAILURE_STATUS, SKIP = 0, 1, 2
-- Work items: kind, raw status (of a cancellation: how), adjusted status, prefix; the ranges follow. An adoption has the
-- member of the job instead of a prefix, and no range.
local ITEM = '<BBBBc0'
local ARRIVE, CANCEL_NODES, ADOPT = 0, 1, 2
-- As in the broker's contract.
local ADVANCE, INLINE_INPUT_BYTES = 1000, 4096
local UPSTREAM_FAILED = '{"kind":"upstream_failed","message":"what it waits for failed"}'
-- The head of a waiting node's record: it has no token and no worker, so its immutable part begins here.
local FIXED_AT = 79

-- ---- ids

local node_of, number_of
do
  local DIGITS = '0123456789ABCDEFGHJKMNPQRSTVWXYZ'
  local pairs_of_digits, value_of_digit = {}, nil

  local function two_digits(n)
    local text = pairs_of_digits[n]
    if not text then
      local high, low = math.floor(n / 32) + 1, n % 32 + 1
      text = sub(DIGITS, high, high) .. sub(DIGITS, low, low)
      pairs_of_digits[n] = text
    end
    return text
  end

  -- The member of a node.
  function node_of(wf, number)
    local block = math.floor((number + 1) / 1024)
    if wf.block ~= block then
      wf.block = block
      wf.stem = wf.prefix .. two_digits(math.floor(block / 1024)) .. two_digits(block % 1024)
    end
    return wf.stem .. two_digits((number + 1) % 1024)
  end

  function number_of(member)
    if not value_of_digit then
      value_of_digit = {}
      for i = 1, 32 do value_of_digit[byte(DIGITS, i)] = i - 1 end
    end
    local v, a, b, c, d, e, f = value_of_digit, byte(member, -6, -1)
    return ((((v[a] * 32 + v[b]) * 32 + v[c]) * 32 + v[d]) * 32 + v[e]) * 32 + v[f] - 1
  end
end

-- ---- workflows

-- Those that this call has read, by prefix.
local known

local function read_workflow(prefix)
  local text = call('GET', P .. 'wf:' .. prefix .. '000000')
  if not text then return false end
  local v = { unpack_struct(WORKFLOW, text) }
  local counts = {}
  for i = 1, 10 do counts[i] = v[14 + i] end
  return { prefix = prefix, id = sub(prefix, -20) .. '000000', tenant = sub(prefix, 1, -22), state = v[2],
    cancelled = v[3], ending = v[4], orphaned = v[5], nodes = v[6], last = v[7], depth = v[8], templates = v[9],
    pruned = v[10], created = v[11], deadline = v[12], finished = v[13], keep = v[14], counts = counts, parent = v[25],
    of = {} }
end

-- The workflow, or false.
local function workflow_at(prefix)
  local wf = known[prefix]
  if wf == nil then
    wf = read_workflow(prefix)
    known[prefix] = wf
  end
  return wf
end

local function workflow_of(member)
  return workflow_at(sub(member, 1, -7))
end

local function write_workflow(wf)
  local c = wf.counts
  call('SET', P .. 'wf:' .. wf.prefix .. '000000', pack(WORKFLOW, 1, wf.state, wf.cancelled, wf.ending, wf.orphaned,
    wf.nodes, wf.last, wf.depth, wf.templates, wf.pruned, wf.created, wf.deadline, wf.finished, wf.keep, c[1], c[2], c[3],
    c[4], c[5], c[6], c[7], c[8], c[9], c[10], #wf.parent, wf.parent))
  wf.dirty = false
end

local function is_running(wf)
  return wf.state == STARTED and wf.pruned == 0
end

local function recount(wf, from, to)
  local counts = wf.counts
  counts[from + 1] = counts[from + 1] - 1
  counts[to + 1] = counts[to + 1] + 1
  wf.dirty = true
end

function workflows.node_changed(member, r)
  local wf = workflow_of(member)
  if wf then recount(wf, r.was, r[STATE]) end
  r.was = r[STATE]
end

-- What the nodes of a template have in common.
local function template_of(wf, index)
  local t = wf.of[index]
  if not t then
    local text = call('HGET', P .. 'wft:' .. wf.prefix .. '000000', index)
    local priority, start, start_ms, expires_ms, max_deliveries, _, queue, task, at = unpack_struct(TEMPLATE, text)
    t = { priority = priority, start = start, start_ms = start_ms, expires_ms = expires_ms,
      max_deliveries = max_deliveries, queue = queue, names = pack('Bc0Bc0', #queue, queue, #task, task),
      tq = tenant_queue_of(wf.tenant, queue), spec = sub(text, at) }
    wf.of[index] = t
  end
  return t
end

-- What the nodes of a template have in common, with the workflow's depth in front: the first time in an answer, then ''.
local function template_text(wf, index)
  local t = template_of(wf, index)
  if t.sent then return '' end
  t.sent = true
  return pack('<I4', wf.depth) .. t.spec
end

-- Where LINKS begins in a text in which the queue's name begins at `at`.
local function links_at(text, at)
  at = at + 1 + byte(text, at)
  return at + 1 + byte(text, at)
end

-- ---- work items

-- What this call added: kind, prefix, raw status, adjusted status, a text, where its ranges are in it and how many, and
-- how many nodes of the first one are done.
local items, first_item, last_item
-- The joins that this call has read, by member.
local joins

resets[#resets + 1] = function() known, items, first_item, last_item, joins = {}, {}, 1, 0, {} end

local function add_item(kind, prefix, raw, adjusted, text, at, count)
  if count == 0 and kind ~= ADOPT then return end
  last_item = last_item + 1
  items[last_item] = { kind, prefix, raw, adjusted, text, at, count, 0 }
end

local function packed_item(item)
  local text = pack(ITEM, item[1], item[3], item[4], #item[2], item[2])
  if item[7] == 0 then return text end
  local number, size = unpack_struct('<I4I4', item[5], item[6])
  return text .. pack('<I4I4', number + item[8], size - item[8]) .. sub(item[5], item[6] + 8, item[6] + 8 * item[7] - 1)
end

local function opened_item(text)
  local kind, raw, adjusted, prefix, at = unpack_struct(ITEM, text)
  return { kind, prefix, raw, adjusted, text, at, (#text - at + 1) / 8, 0 }
end

-- Tells what waits for a node that it ended. Its edges are at `at` in `text`.
local function emit(wf, number, raw, on_failure, text, at, count)
  local adjusted = raw
  if raw == FAILURE_STATUS and on_failure > 0 then adjusted = OK end
  add_item(ARRIVE, wf.prefix, raw, adjusted, text, at, count)
  if wf.last == number then wf.ending, wf.dirty = adjusted + 1, true end
end

local function status_of(state)
  if state == SUCCEEDED then return OK end
  if state == SKIPPED then return SKIP end
  return FAILURE_STATUS
end

local function on_failure_in(bits)
  return math.floor(bits / ON_FAILURE_BIT) % 4
end

-- A node ended in this state. The queue's name in its immutable part begins at `at` in `text`.
local function emit_from(wf, member, state, text, at)
  local _, bits, _, _, count, edges = unpack_struct(LINKS, text, links_at(text, at))
  emit(wf, number_of(member), status_of(state), on_failure_in(bits), text, edges, count)
end

function workflows.node_ended(member, r)
  local wf = workflow_of(member)
  if wf then emit_from(wf, member, r[STATE], r[FIXED], 1) end
end

-- ---- settling and handing out

-- A running node succeeded. The queue's name in its immutable part begins at `at` in `text`.
function workflows.succeeded(member, text, at)
  local wf = workflow_of(member)
  recount(wf, RUNNING, SUCCEEDED)
  emit_from(wf, member, SUCCEEDED, text, at)
end

-- The result of a job that succeeded by itself, if it is small: JSON text. Only as much of it is read.
local function small_result(member)
  local key = P .. 'job:' .. member
  local text = call('GETRANGE', key, 0, 1023)
  if #text == 0 or byte(text, STATE) ~= SUCCEEDED or has(byte(text, FLAGS), REPLACED) then return end
  local function piece(from, to)
    return to <= #text and sub(text, from, to) or call('GETRANGE', key, from - 1, to - 1)
  end
  local at = 74 + byte(text, 73)
  at = at + 1 + byte(text, at)
  at = at + 4 + unpack_struct('<I4', text, at)
  local length = unpack_struct('<I4', piece(at, at + 3))
  if length == 0 then return 'null' end
  if length <= INLINE_INPUT_BYTES then return piece(at + 4, at + 3 + length) end
end

-- What a node is delivered with: its template, and the input if it is small. Its immutable part begins at `at`.
function workflows.delivered(member, text, at)
  local wf = workflow_of(member)
  recount(wf, QUEUED, RUNNING)
  local template, bits, after = unpack_struct(LINKS, text, links_at(text, at))
  local input = ''
  if has(bits, THIRD_BIT) and bits % 2 == 0 and after ~= NOBODY then
    wf.results = wf.results or {}
    input = wf.results[after]
    if not input then
      input = small_result(node_of(wf, after)) or ''
      wf.results[after] = input
    end
  end
  return template_text(wf, template), input
end

workflows.STAGED, workflows.STARTED, workflows.WORKFLOW = STAGED, STARTED, WORKFLOW
workflows.at, workflows.of, workflows.node_of = workflow_at, workflow_of, node_of
workflows.LINKS, workflows.links_at = LINKS, links_at
workflows.template_of, workflows.template_text = template_of, template_text
-- A deleted one is not written again.
function workflows.forget(wf) known[wf.prefix] = false end
