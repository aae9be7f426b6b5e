-- Put behind canvas.lua: the deletion of a job.

-- The child of a deleted job is deleted next, or when it is over: callbacks may outlive its end.
local function orphan(member)
  local r = load(member)
  local wf = r and canvas().workflow_at(canvas().child_of(member, r))
  if not wf then return end
  wf.orphaned, wf.dirty = 1, true
  -- At once: it may be deleted by this very script.
  if wf.finished > 0 then call('ZADD', P .. 'retain', now, wf.prefix .. '000000w') end
end

local function unlink(member)
  call('UNLINK', P .. 'job:' .. member, P .. 'spec:' .. member, P .. 'history:' .. member, P .. 'log:' .. member,
    P .. 'more:' .. member)
end

local have_dead = {}

-- Deletes a job that is no node, by its name in `retain`.
local function prune_job(name, member)
  if name ~= member then orphan(member) end
  local tenant, id = tenant_of(member), id_of(member)
  if have_dead[tenant] == nil then have_dead[tenant] = call('EXISTS', P .. 'dead:' .. tenant) == 1 end
  if have_dead[tenant] then rules().leave_dead(tenant, id) end
  unlink(member)
  zrem(P .. 'retain', name)
  zrem(P .. 'jobs:' .. tenant, id)
end
