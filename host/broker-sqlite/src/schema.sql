-- Schema 1, and what every later one builds on: never changed, see `schema.rs`.
-- Times are milliseconds since the epoch. Numbers of states are in `rows.rs`.
-- `job` is what changes: narrow, rewritten at each step. What is written once lies in tables of its own.

CREATE TABLE meta (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    -- Place in the line given out last.
    seq INTEGER NOT NULL
) STRICT;
INSERT INTO meta (one, seq) VALUES (1, 0);

-- A queue of a tenant. At most `Limits::max_queues` for each, and never deleted.
CREATE TABLE line (
    id INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    queue TEXT NOT NULL,
    ready INTEGER NOT NULL,
    running INTEGER NOT NULL,
    delayed INTEGER NOT NULL,
    paused INTEGER NOT NULL,
    -- Virtual start time among the tenants of a queue; none while nothing can be handed out.
    tag INTEGER,
    UNIQUE (tenant, queue)
) STRICT;

CREATE TABLE job (
    rid INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    id BLOB NOT NULL,
    line INTEGER NOT NULL,
    task TEXT NOT NULL,
    priority INTEGER NOT NULL,
    max_deliveries INTEGER NOT NULL,
    result_ttl_ms INTEGER NOT NULL,
    dead_ttl_ms INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    state INTEGER NOT NULL,
    -- 0 waits, 1 runs, 2 has ended; and when to look at it again: due or expiring, lease over, to be deleted.
    phase INTEGER NOT NULL,
    at INTEGER,
    -- Place in the line: (9 - priority) << 48 | seq. Kept while running, so that the first lost delivery does not lose it.
    score INTEGER NOT NULL,
    retries INTEGER NOT NULL,
    deliveries INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    cancel_requested INTEGER NOT NULL,
    dead INTEGER NOT NULL,
    due_at INTEGER,
    started_at INTEGER,
    finished_at INTEGER,
    worker TEXT,
    -- Of the current delivery; kept after its settle so that a repeated one is recognised, cleared by the reaper.
    token TEXT,
    -- Ever appended to `history` and `log`.
    records INTEGER NOT NULL,
    log_lines INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX job_id ON job (tenant, id);
CREATE INDEX job_ready ON job (line, score) WHERE state = 1;
-- Tenant and id decide among equal times, so that every broker acts in the same order.
CREATE INDEX job_at ON job (phase, at, tenant, id) WHERE at IS NOT NULL;
CREATE INDEX job_dead ON job (tenant, id) WHERE dead = 1;

CREATE TABLE spec (rid INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;
CREATE TABLE outcome (rid INTEGER PRIMARY KEY, result TEXT, failure TEXT) STRICT;
CREATE TABLE progress (rid INTEGER PRIMARY KEY, progress TEXT NOT NULL) STRICT;
CREATE TABLE history (rid INTEGER, n INTEGER, record TEXT NOT NULL, PRIMARY KEY (rid, n)) STRICT, WITHOUT ROWID;
CREATE TABLE log (rid INTEGER, n INTEGER, line TEXT NOT NULL, PRIMARY KEY (rid, n)) STRICT, WITHOUT ROWID;

CREATE TABLE idempotency (
    tenant TEXT NOT NULL,
    key TEXT NOT NULL,
    id BLOB NOT NULL,
    body TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_expiry ON idempotency (expires_at);

CREATE TABLE worker (id TEXT PRIMARY KEY, seen_at INTEGER NOT NULL, info TEXT NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE document (
    tenant TEXT NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (tenant, kind, name)
) STRICT;
