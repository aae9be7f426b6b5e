-- Actions on single jobs: cancel, run now.

-- Revokes a job that waits, and cancels the workflow that replaced it; asks the worker of a running one to stop it, or lets
-- it end.
-- ARGV[2] member   ARGV[3] '1' to stop it, '0' to let it end, '2' to leave it alone
-- Returns its state before, or -1 when there is no such job, or it is a node of a workflow that nobody finds.
-- Complexity: O(log N), and that of work.advance().
register('cancel', 'allow-oom', function(args)
  local member = args[2]
  local r = load(member)
  if not r then return -1 end
  if has(r[FLAGS], NODE) then
    local wf = workflows.of(member)
    -- Staged, or half deleted.
    if wf and (wf.state == workflows.STAGED or wf.pruned > 0) then return -1 end
  end
  local state = r[STATE]
  if is_over(state) or (state == RUNNING and args[3] == '2') then return state end
  local was_cancelled, lets_end = has(r[FLAGS], CANCEL), has(r[FLAGS], LET_END)
  if not was_cancelled then r[FLAGS] = r[FLAGS] + CANCEL end
  if state == RUNNING then
    -- Once it is to be stopped, it is.
    local let_end = args[3] == '0' and (lets_end or not was_cancelled)
    if let_end and not lets_end then r[FLAGS] = r[FLAGS] + LET_END end
    if lets_end and not let_end then r[FLAGS] = r[FLAGS] - LET_END end
    if args[3] == '1' then to_stop[1] = id_of(member) end
    save(member, r)
  else
    workflows.revoke(member, r, REVOKED)
    work.advance()
  end
  flush()
  notify()
  return state
end)

-- Queues a scheduled or retrying job now.
-- ARGV[2] member
-- Returns its state before, or -1 when there is no such job.
-- Complexity: O(log N).
register('run_now', '', function(args)
  local member = args[2]
  local r = load(member)
  if not r then return -1 end
  local state = r[STATE]
  -- One that has expired is left to the promoter.
  if (state == SCHEDULED or state == RETRYING) and (r[EXPIRES] == 0 or r[EXPIRES] > now) then
    local tq = tenant_queue_of(tenant_of(member), queue_in(r[FIXED]))
    leave(member, r, tq)
    r[SCORE] = new_score(r[PRIORITY])
    enqueue(member, r, tq)
    save(member, r)
    flush()
    notify()
  end
  return state
end)
