-- Schema 5: the scheduler lives in memory, on top of schema 4. Sub-queues, blocks and the counters of limits are made from
-- the jobs when the file is opened. In the code a `line` is a tenant queue, a `lane` a sub-queue, `knobs` are broker options,
-- a `gate` is a join, `todo` holds work items, and a line's `tag` is its virtual finish time.

-- `job.lane` has a value while the job is queued in the sub-queue of its task and key, or counts as running there.
DROP TABLE parked;
DROP TABLE key_lane;
DROP TABLE lane;
DROP TABLE bucket;
ALTER TABLE line DROP COLUMN laned;
ALTER TABLE line DROP COLUMN lanes;
ALTER TABLE line DROP COLUMN open_lanes;
ALTER TABLE line DROP COLUMN clock;
ALTER TABLE line DROP COLUMN plain_tag;
ALTER TABLE line DROP COLUMN park;
ALTER TABLE line DROP COLUMN park_until;
