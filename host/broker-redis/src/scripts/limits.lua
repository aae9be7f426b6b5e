-- Put before growing.lua in a script that is given the limits of workflows as its first arguments.
-- ARGV[3] max_backlog   ARGV[4] max_queues   ARGV[5] max_workflows, a comma, max_nodes

local max_backlog, max_queues = tonumber(ARGV[3]), tonumber(ARGV[4])
local max_workflows, max_nodes = string.match(ARGV[5], '(%d+),(%d+)')
max_workflows, max_nodes = tonumber(max_workflows), tonumber(max_nodes)
