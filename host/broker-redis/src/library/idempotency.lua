-- Idempotency keys: they make a submission repeatable.

-- The answer to a submission whose key is known: E and the first id, or X when it had another body.
function idempotency.known(tenant, idem_key, body)
  local entry = call('GET', P .. 'idem:' .. tenant .. ',' .. idem_key)
  if not entry then return end
  local expires, id, first = string.match(entry, '^(%d+) (%S+) (.*)$')
  if tonumber(expires) <= now then return end
  return first == body and 'E' or 'X', id
end

function idempotency.keep(tenant, idem_key, body, ttl_ms, id)
  local until_ms = math.min(now + ttl_ms, MAX_MS)
  call('SET', P .. 'idem:' .. tenant .. ',' .. idem_key, string.format('%.0f %s %s', until_ms, id, body))
  call('ZADD', P .. 'idem_due', until_ms, tenant .. ',' .. idem_key)
end
