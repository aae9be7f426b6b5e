-- Schema 3: limits, lanes, controls, uniqueness and what else of a job's life a broker must know, on top of schema 2.

-- The bucket of its lane, while it is queued in one or counts as running there.
ALTER TABLE job ADD COLUMN lane INTEGER;
-- Which knobs it has, so that most jobs need no look at `knobs`: 1 `on_lost`, 2 `limits`, 4 `unique`.
-- `cancel_requested` is 2 in a job that is left to end.
ALTER TABLE job ADD COLUMN knobs INTEGER NOT NULL DEFAULT 0;
-- Plain jobs have no lane and are found as such.
DROP INDEX job_ready;
CREATE INDEX job_ready ON job (line, lane, score) WHERE state = 1;
-- JSON text of `Knobs`.
CREATE TABLE knobs (rid INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;

-- In the dead set.
ALTER TABLE line ADD COLUMN dead INTEGER NOT NULL DEFAULT 0;
-- Of `ready`, those in lanes.
ALTER TABLE line ADD COLUMN laned INTEGER NOT NULL DEFAULT 0;
ALTER TABLE line ADD COLUMN lanes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE line ADD COLUMN open_lanes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE line ADD COLUMN clock INTEGER NOT NULL DEFAULT 0;
ALTER TABLE line ADD COLUMN plain_tag INTEGER NOT NULL DEFAULT 0;
-- Why it is parked: 1 its queue's cap, 2 its tenant's cap, 3 a rate, and then until when.
ALTER TABLE line ADD COLUMN park INTEGER;
ALTER TABLE line ADD COLUMN park_until INTEGER;
-- The worker of the last delivery.
ALTER TABLE line ADD COLUMN holder TEXT;
UPDATE line SET dead = counted.n
    FROM (SELECT line AS of, count(*) AS n FROM job INDEXED BY job_dead WHERE dead = 1 GROUP BY line) AS counted
    WHERE counted.of = line.id;

-- Kind 0: of the tenant, 1: of the queue `name`, 2: of the task `name`. JSON text of a `Control`.
CREATE TABLE control (
    tenant TEXT NOT NULL,
    kind INTEGER NOT NULL,
    name TEXT NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (tenant, kind, name)
) STRICT, WITHOUT ROWID;
INSERT INTO control SELECT tenant, 1, queue, '{"paused":true}' FROM line WHERE paused = 1;

-- What jobs of lanes count for while they run: a task (without a key) or a key of it. There while a job is queued or
-- running in it, or a key of the task is.
CREATE TABLE bucket (
    rid INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    task TEXT NOT NULL,
    key TEXT NOT NULL,
    -- Of a key: its task's bucket.
    of INTEGER,
    running INTEGER NOT NULL,
    -- Jobs queued or running in it, and keys of the task.
    used INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX bucket_name ON bucket (tenant, task, key);

-- A task's lane in a line. Park: 1 its cap, 2 a rate, 3 paused.
CREATE TABLE lane (
    line INTEGER NOT NULL,
    bucket INTEGER NOT NULL,
    task TEXT NOT NULL,
    clock INTEGER NOT NULL,
    tag INTEGER NOT NULL,
    open INTEGER NOT NULL,
    -- Of the first job of the first open key lane: 0 for priority 9.
    urgency INTEGER NOT NULL,
    park INTEGER,
    park_until INTEGER,
    -- Key lanes in it, and how many of them are open.
    keys INTEGER NOT NULL,
    open_keys INTEGER NOT NULL,
    PRIMARY KEY (line, bucket)
) STRICT, WITHOUT ROWID;
CREATE INDEX lane_next ON lane (line, urgency, tag, task) WHERE open = 1;
CREATE INDEX lane_parked ON lane (bucket) WHERE park IS NOT NULL;

CREATE TABLE key_lane (
    line INTEGER NOT NULL,
    bucket INTEGER NOT NULL,
    -- The bucket of its lane.
    of INTEGER NOT NULL,
    key TEXT NOT NULL,
    tag INTEGER NOT NULL,
    open INTEGER NOT NULL,
    urgency INTEGER NOT NULL,
    park INTEGER,
    park_until INTEGER,
    jobs INTEGER NOT NULL,
    PRIMARY KEY (line, bucket)
) STRICT, WITHOUT ROWID;
CREATE INDEX key_lane_next ON key_lane (line, of, urgency, tag, key) WHERE open = 1;
CREATE INDEX key_lane_parked ON key_lane (bucket) WHERE park IS NOT NULL;

-- Lanes (without a key) and key lanes that are parked by a rate, in the order in which they are opened.
CREATE TABLE parked (
    at INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    queue TEXT NOT NULL,
    task TEXT NOT NULL,
    key TEXT NOT NULL,
    line INTEGER NOT NULL,
    bucket INTEGER NOT NULL,
    PRIMARY KEY (at, tenant, queue, task, key)
) STRICT, WITHOUT ROWID;

-- Until when rates are used up, microseconds. Kind as in `control`, 3: the key `key` of the task `name`.
CREATE TABLE rate (
    tenant TEXT NOT NULL,
    kind INTEGER NOT NULL,
    name TEXT NOT NULL,
    key TEXT NOT NULL,
    until_us INTEGER NOT NULL,
    PRIMARY KEY (tenant, kind, name, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX rate_until ON rate (until_us);

-- Who holds a key, until when (0: until it ends), and since when jobs took each other's place.
CREATE TABLE unique_key (
    tenant TEXT NOT NULL,
    key TEXT NOT NULL,
    id BLOB NOT NULL,
    until INTEGER NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY (tenant, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX unique_key_until ON unique_key (until) WHERE until > 0;

-- JSON text of the last `WorkerOrder`.
ALTER TABLE worker ADD COLUMN orders TEXT;

-- Tenants that somebody follows, until when (0: it has ended), and the number of the last event.
CREATE TABLE followed (tenant TEXT PRIMARY KEY, until INTEGER NOT NULL, last INTEGER NOT NULL) STRICT, WITHOUT ROWID;
-- Of one tenant: numbered without gaps.
CREATE TABLE event (
    tenant TEXT NOT NULL,
    number INTEGER NOT NULL,
    at INTEGER NOT NULL,
    job BLOB NOT NULL,
    task TEXT NOT NULL,
    state INTEGER NOT NULL,
    PRIMARY KEY (tenant, number)
) STRICT, WITHOUT ROWID;
-- The highest number that an event had.
ALTER TABLE meta ADD COLUMN event INTEGER NOT NULL DEFAULT 0;
