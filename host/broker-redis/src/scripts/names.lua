-- Put in front of every script, and once more into make_canvas(), which so needs none of these from outside: for each
-- name that a function has from outside, making it takes Redis some time, in every run of the script.

-- The stored record; records.rs reads the same. HEAD changes with every step, the rest seldom.
-- Redis' Lua hashes every byte of every string that it makes, 0.6 us for a record: few and short strings are fast ones.
local HEAD = '<BBBBI4I4I4I6I6I6I6I6I7I7I6I6Bc0Bc0'
local FULL = HEAD .. 'I4c0I4c0I4c0I4c0BI4c0'
local STATE, FLAGS, PRIORITY, RETRIES, DELIVERIES, MAX_DELIVERIES = 2, 3, 4, 5, 6, 7
local EXPIRES, DUE, FINISHED, SCORE, RESULT_TTL, DEAD_TTL = 9, 10, 12, 13, 15, 16
local TOKEN, WORKER, FIXED, RESULT, FAILURE, PROGRESS, HISTORY_LEN, HISTORY = 17, 18, 19, 20, 21, 22, 23, 24
-- Flags, as numbers that are added.
-- NODE: of a workflow. REPLACED: the id of the workflow that replaced it stands for its result. MORE: it has knobs.
-- LET_END: cancelled, and left to end. LANED: queued in a lane, or running and counted there.
local CANCEL, SPEC_APART, HISTORY_APART, NODE, REPLACED, MORE, LET_END, LANED = 1, 2, 4, 8, 16, 32, 64, 128
-- The knobs under `more:`: version, what a lost worker means, whether it has limits; rate (count or 0, period, burst) and
-- concurrency of its task, the same of its key, the key; who wins (0: not unique), for how long, longest wait, unique key.
local KNOBS = '<BBBI4I6I4I4I4I6I4I4Bc0BI6I6Bc0'
local SCHEDULED, QUEUED, RUNNING, RETRYING, SUCCEEDED, FAILED, REVOKED, EXPIRED, WAITING, SKIPPED =
  0, 1, 2, 3, 4, 5, 6, 7, 8, 9
-- How FULL writes result, failure, progress and history when they are empty.
local NOTHING_YET = string.rep('\0', 17)
-- The largest time or duration that a record holds, milliseconds: 8,900 years.
local MAX_MS = 281474976710655
-- Bytes of history kept in the record itself; more goes into a list of its own.
local HISTORY_INLINE = 2048
local MAX_HISTORY = 50
