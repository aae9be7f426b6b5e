-- Schema 9: the bytes that are stored of each tenant. What counts is said in `rules/storage.rs` of the broker.

-- Of a job with all that belongs to it, and the part of them that is its log; of a workflow without its nodes.
ALTER TABLE job ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN log_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE workflow ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
-- Bytes that a document stands for.
ALTER TABLE document ADD COLUMN held INTEGER NOT NULL DEFAULT 0;

-- The sums. A tenant of which nothing is stored may have no row. `logs` is a part of `jobs`, `modules` one of `documents`.
CREATE TABLE stored (
    tenant TEXT PRIMARY KEY,
    jobs INTEGER NOT NULL,
    logs INTEGER NOT NULL,
    documents INTEGER NOT NULL,
    modules INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What an operator lets a tenant store, bytes. 0: as much as the broker lets each.
CREATE TABLE storage_limit (
    tenant TEXT PRIMARY KEY,
    jobs INTEGER NOT NULL,
    documents INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

UPDATE job SET log_bytes = of.bytes
    FROM (SELECT rid, sum(octet_length(line)) AS bytes FROM log GROUP BY rid) AS of WHERE of.rid = job.rid;
