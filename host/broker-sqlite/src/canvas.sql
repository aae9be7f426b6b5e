-- Schema 2: workflows, on top of schema 1. Ranges of nodes are pairs of 32-bit numbers, little-endian.

-- Of a workflow's node: the row of its workflow. Its `spec.text` is then its own arguments, and it is deleted with the
-- workflow: `at` is empty when it has ended. In a plain job both columns take one byte each.
ALTER TABLE job ADD COLUMN workflow INTEGER;
-- The workflow that replaced the job.
ALTER TABLE job ADD COLUMN child BLOB;

-- What changes of a workflow.
CREATE TABLE workflow (
    -- Never used again: what is left to do for a deleted workflow must not meet another one.
    rid INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL,
    id BLOB NOT NULL,
    nodes INTEGER NOT NULL,
    end_node INTEGER NOT NULL,
    parent BLOB,
    depth INTEGER NOT NULL,
    deadline_ms INTEGER NOT NULL,
    keep_ms INTEGER NOT NULL,
    -- 1 until it is started.
    staged INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    deadline_at INTEGER,
    finished_at INTEGER,
    delete_at INTEGER,
    state INTEGER NOT NULL,
    -- State of the jobs that its cancellation ends.
    cancelled INTEGER,
    -- How its end node ended, adjusted.
    end_status INTEGER,
    -- 1: the job that it replaced was deleted.
    orphaned INTEGER NOT NULL,
    -- Nodes deleted so far.
    pruned INTEGER,
    -- Its jobs by state: ten 32-bit numbers, little-endian.
    jobs BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX workflow_id ON workflow (tenant, id);
CREATE INDEX workflow_list ON workflow (tenant, id) WHERE parent IS NULL AND pruned IS NULL;
-- Tenant and id decide among equal times, so that every broker acts in the same order.
CREATE INDEX workflow_deadline ON workflow (deadline_at, tenant, id) WHERE deadline_at IS NOT NULL;
CREATE INDEX workflow_delete ON workflow (delete_at, tenant, id) WHERE delete_at IS NOT NULL;

-- What was asked of a workflow. `key`, `body` and `ttl_ms` are its idempotency.
CREATE TABLE workflow_spec (
    rid INTEGER PRIMARY KEY,
    text TEXT NOT NULL,
    starts BLOB NOT NULL,
    key TEXT,
    body TEXT,
    ttl_ms INTEGER
) STRICT;

-- How many workflows a tenant has that replace no job and are not being deleted, and how many nodes all of them have.
CREATE TABLE workflow_count (
    tenant TEXT PRIMARY KEY,
    held INTEGER NOT NULL,
    nodes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE template (
    workflow INTEGER NOT NULL,
    n INTEGER NOT NULL,
    task TEXT NOT NULL,
    queue TEXT NOT NULL,
    priority INTEGER NOT NULL,
    -- At most one of them; none: at once.
    start_after_ms INTEGER,
    start_at INTEGER,
    expires_ms INTEGER NOT NULL,
    max_deliveries INTEGER NOT NULL,
    nodes INTEGER NOT NULL,
    spec TEXT NOT NULL,
    PRIMARY KEY (workflow, n)
) STRICT, WITHOUT ROWID;

-- The graph. What changes of a node is in `job` (row `rid`) or, when it has no `rid`, in `gate`.
CREATE TABLE node (
    workflow INTEGER NOT NULL,
    number INTEGER NOT NULL,
    rid INTEGER,
    template INTEGER,
    -- 1: it waits for the failure of its source.
    error_callback INTEGER NOT NULL,
    on_failure INTEGER NOT NULL,
    takes INTEGER NOT NULL,
    source INTEGER,
    gate INTEGER,
    next BLOB NOT NULL,
    members BLOB,
    scope BLOB,
    cancel_rest INTEGER,
    PRIMARY KEY (workflow, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE gate (
    workflow INTEGER NOT NULL,
    number INTEGER NOT NULL,
    pending INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    skipped INTEGER NOT NULL,
    status INTEGER,
    PRIMARY KEY (workflow, number)
) STRICT, WITHOUT ROWID;

-- Work items, first in first out. Kind 0: arrivals at `count` nodes from `first` on, with the statuses `raw` and
-- `adjusted`. 1: their cancellation, which ends them in the state `how`. 2: the workflow that replaced the job `job` of
-- `tenant` ended as `adjusted`.
CREATE TABLE todo (
    seq INTEGER PRIMARY KEY,
    kind INTEGER NOT NULL,
    workflow INTEGER,
    first INTEGER,
    count INTEGER,
    raw INTEGER,
    adjusted INTEGER,
    how INTEGER,
    tenant TEXT,
    job BLOB
) STRICT;
