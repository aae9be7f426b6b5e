-- Actions on jobs: cancel, run now.
do

-- Cancels one job. `how`: '1' to stop it, '0' to let it end, '2' to leave it alone if it runs. Its state before, or -1.
local function cancel(member, how)
  local r = load(member)
  if not r then return -1 end
  if has(r[FLAGS], NODE) then
    local wf = workflows.of(member)
    -- Staged, or half deleted.
    if wf and (wf.state == workflows.STAGED or wf.pruned > 0) then return -1 end
  end
  local state = r[STATE]
  if is_over(state) or (state == RUNNING and how == '2') then return state end
  local was_cancelled, lets_end = has(r[FLAGS], CANCEL), has(r[FLAGS], LET_END)
  if not was_cancelled then r[FLAGS] = r[FLAGS] + CANCEL end
  if state == RUNNING then
    -- Once it is to be stopped, it is.
    local let_end = how == '0' and (lets_end or not was_cancelled)
    if let_end and not lets_end then r[FLAGS] = r[FLAGS] + LET_END end
    if lets_end and not let_end then r[FLAGS] = r[FLAGS] - LET_END end
    if how == '1' then to_stop[#to_stop + 1] = id_of(member) end
    save(member, r)
  else
    workflows.revoke(member, r, REVOKED)
  end
  return state
end

-- Revokes jobs that wait, and cancels the workflows that replaced them; asks the workers of running ones to stop them, or lets
-- them end.
-- ARGV[2] '1' to stop them, '0' to let them end, '2' to leave them alone   ARGV[3…] members
-- Returns for each its state before, or -1 when there is no such job, or it is a node of a workflow that nobody finds.
-- Complexity: O(n log N) for n jobs, and that of work.advance().
register('cancel', 'allow-oom', function(args)
  local codes, revoked = {}, false
  for i = 3, #args do
    local state = cancel(args[i], args[2])
    codes[i - 2] = state
    revoked = revoked or (state >= 0 and state ~= RUNNING and not is_over(state))
  end
  if revoked then work.advance() end
  flush()
  notify()
  return codes
end)

-- Queues scheduled and retrying jobs now.
-- ARGV[3…] members
-- Returns for each its state before, or -1 when there is no such job.
-- Complexity: O(n log N).
register('run_now', '', function(args)
  local codes = {}
  for i = 3, #args do
    local member = args[i]
    local r = load(member)
    local state = r and r[STATE] or -1
    -- One that has expired is left to the promoter.
    if (state == SCHEDULED or state == RETRYING) and (r[EXPIRES] == 0 or r[EXPIRES] > now) then
      local tq = tenant_queue_of(tenant_of(member), queue_in(r[FIXED]))
      leave(member, r, tq)
      r[SCORE] = new_score(r[PRIORITY])
      enqueue(member, r, tq)
      save(member, r)
    end
    codes[i - 2] = state
  end
  flush()
  notify()
  return codes
end)

end
