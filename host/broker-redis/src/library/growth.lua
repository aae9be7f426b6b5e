-- Growth: what a guest adds with its outcome.
-- A growth is: number of workflows, each packed as its head, templates and nodes; then 1 and templates, nodes, ends and
-- starts of new members, or 0.

local IS_JOIN = new_workflows.IS_JOIN
-- As in the broker's contract and in the model.
local MAX_NODES, MAX_TEMPLATES, TEMPLATES_COMPARED = 250000, 4096, 16

local function read_list(blob, at, count)
  local list = {}
  for i = 1, count do list[i], at = unpack_struct('<I4c0', blob, at) end
  return list, at
end

local function read_nodes(blob, at)
  local part, count = {}, nil
  count, at = unpack_struct('<I2', blob, at)
  part.templates, at = read_list(blob, at, count)
  count, at = unpack_struct('<I4', blob, at)
  part.nodes, at = read_list(blob, at, count)
  return part, at
end

local function read_growth(blob)
  local growth = { workflows = {}, templates = {}, alone = 0, nodes = 0, bytes = 0 }
  local function part_at(at)
    local part
    part, at = read_nodes(blob, at)
    for _, text in ipairs(part.templates) do growth.templates[#growth.templates + 1] = text end
    growth.nodes = growth.nodes + #part.nodes
    for _, node in ipairs(part.nodes) do growth.bytes = growth.bytes + new_workflows.bytes_of(node) end
    return part, at
  end
  local count, at = unpack_struct('<I2', blob)
  for i = 1, count do
    local head, part
    head, at = unpack_struct('<I4c0', blob, at)
    part, at = part_at(at)
    part.head = head
    part.prefix = sub((unpack_struct('<Bc0', head)), 1, -7)
    local _, _, _, _, _, _, parent, _, _, _, spec = unpack_struct(new_workflows.NEW_WORKFLOW, head)
    growth.bytes = growth.bytes + #spec
    if #parent == 0 then growth.alone = growth.alone + 1 end
    growth.workflows[i] = part
  end
  local has_members
  has_members, at = unpack_struct('B', blob, at)
  if has_members == 1 then
    growth.members, at = part_at(at)
    growth.members.ends, growth.members.starts = unpack_struct('<I4c0I4c0', blob, at)
  end
  return growth
end

-- The workflow of a node, the number and the join of its group, if that can have these members too.
local function group_for(member, r, members)
  if not has(r[FLAGS], NODE) then return end
  local _, _, _, number = unpack_struct(LINKS, r[FIXED], links_at(r[FIXED], 1))
  local wf = workflow_of(member)
  if not wf or number == NOBODY then return end
  local join = join_at(node_of(wf, number))
  -- A group whose rest was cancelled gets no more.
  if not join or join.status > 0 or (join.failed > 0 and has(join.bits, THIRD_BIT)) or wf.nodes + #members.nodes > MAX_NODES
    or wf.templates + #members.templates > MAX_TEMPLATES then return end
  return wf, number, join
end

local function moved(ranges, base)
  local out = {}
  for at = 1, #ranges, 8 do
    local first, count = unpack_struct('<I4I4', ranges, at)
    out[#out + 1] = pack('<I4I4', first + base, count)
  end
  return table.concat(out)
end

-- Adds ranges to a list of them. One that goes on where the last one ends makes it longer.
local function push_ranges(list, more)
  for at = 1, #more, 8 do
    local first, count = unpack_struct('<I4I4', more, at)
    local last, length = NOBODY, 0
    if #list > 0 then last, length = unpack_struct('<I4I4', list, #list - 7) end
    if last + length == first then
      list = sub(list, 1, -9) .. pack('<I4I4', last, length + count)
    else
      list = list .. pack('<I4I4', first, count)
    end
  end
  return list
end

-- A template but for the number of its nodes.
local function likeness(text)
  return sub(text, 1, 18) .. sub(text, 23)
end

-- The numbers of templates that serve the new ones. Those that are stored are not stored again.
local function place_templates(wf, texts)
  local first, old = math.max(0, wf.templates - TEMPLATES_COMPARED), {}
  for number = first, wf.templates - 1 do
    old[#old + 1] = { number, likeness(call('HGET', P .. 'wft:' .. wf.prefix .. '000000', number)) }
  end
  local numbers = {}
  for i, text in ipairs(texts) do
    local like = likeness(text)
    for at = math.max(1, #old - TEMPLATES_COMPARED + 1), #old do
      if old[at][2] == like then
        numbers[i] = old[at][1]
        break
      end
    end
    if not numbers[i] then
      numbers[i] = wf.templates
      old[#old + 1] = { wf.templates, like }
      new_workflows.store_templates(wf, { text })
    end
  end
  return numbers
end

-- A packed node with its numbers moved behind those of the workflow.
local function moved_node(blob, base, templates, group, edge)
  local function place(number, otherwise)
    return number == NOBODY and otherwise or number + base
  end
  local kind, at = byte(blob), 2
  if kind == IS_JOIN then
    local v = { unpack_struct(JOIN, blob, at) }
    local next_at = v[12]
    local members = next_at + 8 * v[9]
    local scope = members + 8 * v[10]
    return sub(blob, 1, 1) .. pack(JOIN, 1, v[2], v[3], v[4], v[5], v[6], place(v[7], NOBODY), place(v[8], group),
      v[9] + #edge / 8, v[10], v[11]) .. moved(sub(blob, next_at, members - 1), base) .. edge
      .. moved(sub(blob, members), base)
  end
  local _, links = new_workflows.template_in(blob)
  local template, bits, after, inner, count, edges = unpack_struct(LINKS, blob, links)
  local rest = edges + 8 * count
  return sub(blob, 1, links - 1) .. pack(LINKS, templates[template + 1], bits, place(after, NOBODY), place(inner, group),
    count + #edge / 8) .. moved(sub(blob, edges, rest - 1), base) .. edge .. sub(blob, rest)
end

local function add_members(wf, group, join, members)
  local base = wf.nodes
  local is_end, added_ends = {}, 0
  for at = 1, #members.ends, 8 do
    local first, count = unpack_struct('<I4I4', members.ends, at)
    for number = first, first + count - 1 do is_end[number] = true end
    added_ends = added_ends + count
  end
  local templates = place_templates(wf, members.templates)
  call('HINCRBY', P .. 'wf_nodes', wf.tenant, #members.nodes)
  wf.nodes = base + #members.nodes
  local edge = pack('<I4I4', group, 1)
  for i, blob in ipairs(members.nodes) do
    new_workflows.store_node(wf, base + i - 1, moved_node(blob, base, templates, group, is_end[i - 1] and edge or ''))
  end
  join.pending, join.dirty = join.pending + added_ends, true
  join.members = push_ranges(join.members, moved(members.ends, base))
  if #members.nodes > 0 then join.scope = push_ranges(join.scope, pack('<I4I4', base, #members.nodes)) end
  local starts = moved(members.starts, base)
  add_item(ARRIVE, wf.prefix, FAILURE_STATUS, OK, starts, 1, #starts / 8)
end

-- Stores what a running job asked for, or changes nothing and answers false. Calls `begin_to_store` before it stores something.
function workflows.grow(member, r, blob, begin_to_store)
  local growth = read_growth(blob)
  local members, wf, group, join = growth.members, nil, nil, nil
  if members then
    wf, group, join = group_for(member, r, members)
    if not wf then return false end
  end
  local tenant, bytes = tenant_of(member), growth.bytes + new_workflows.bytes_of_templates(growth.templates)
  if new_workflows.no_room_for(tenant, growth.alone, growth.nodes, growth.templates) then return false end
  if not storage.fits(tenant, bytes) then return false end
  local given = {}
  for _, new in ipairs(growth.workflows) do
    -- Its id is random: one that is taken, or given twice, is a mistake of the submitter.
    if given[new.prefix] or workflow_at(new.prefix) then return false end
    given[new.prefix] = true
  end
  begin_to_store()
  for _, new in ipairs(growth.workflows) do
    local stored, starts = new_workflows.store_workflow(new.head, new.templates)
    for i, node in ipairs(new.nodes) do new_workflows.store_node(stored, i - 1, node) end
    new_workflows.begin(stored, starts)
  end
  if members then add_members(wf, group, join, members) end
  return true
end
