-- Put behind canvas.lua in a script that answers with records: what a reader needs besides.

-- Appends: member, record, [large spec or arguments], [list of attempts], [template of a node].
local function append_job(out, member, text)
  local flags, n = byte(text, FLAGS), #out + 2
  out[n - 1], out[n] = member, text
  if has(flags, SPEC_APART) then
    n = n + 1
    out[n] = call('GET', P .. 'spec:' .. member) or ''
  end
  if has(flags, HISTORY_APART) then
    n = n + 1
    out[n] = call('LRANGE', P .. 'history:' .. member, 0, -1)
  end
  if has(flags, NODE) then
    local c = canvas()
    -- Behind token and worker, and the length of the immutable part.
    local at = 74 + byte(text, 73)
    at = at + 1 + byte(text, at) + 4
    out[n + 1] = c.template_text(c.workflow_of(member), (unpack_struct('<I3', text, c.links_at(text, at))))
  end
end
