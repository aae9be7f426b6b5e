-- Whether the functions may do what they do.

-- Looks for rights that the user of this connection lacks, and writes something that it deletes again.
-- ARGV[2…] the commands of all functions
-- Returns the commands and channels that are missing; without rights nothing is written.
-- Complexity: O(n).
register('check', 'allow-oom', function(args)
  local key, channel, missing = P .. 'meta:check_v1', P .. 'work', {}
  for i = 2, #args do
    local command = args[i]
    local allowed
    if command == 'PUBLISH' then
      allowed = redis.acl_check_cmd(command, channel, '')
      if not allowed then command = 'PUBLISH to ' .. channel end
    elseif command == 'TIME' then
      allowed = redis.acl_check_cmd(command)
    else
      allowed = redis.acl_check_cmd(command, key)
      if not allowed then command = command .. ' with keys such as ' .. key end
    end
    if not allowed then missing[#missing + 1] = command end
  end
  if #missing == 0 then
    call('SET', key, '')
    call('DEL', key)
  end
  return missing
end)
