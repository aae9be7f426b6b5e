-- Put before growing.lua in a script that is given the limits of workflows as its first arguments.
-- ARGV[3] max_backlog   ARGV[4] max_queues   ARGV[5] max_workflows

local max_backlog, max_queues, max_workflows = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
