-- Schema 12: records of blobs, whose bytes are in the module store.
CREATE TABLE blob (
    tenant TEXT NOT NULL,
    digest BLOB NOT NULL,
    bytes INTEGER NOT NULL,
    content_type TEXT,
    created_at INTEGER NOT NULL,
    -- Jobs that refer to it, and since when none does.
    uses INTEGER NOT NULL,
    unused_since INTEGER,
    PRIMARY KEY (tenant, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX blob_unused ON blob (unused_since, tenant, digest) WHERE unused_since IS NOT NULL;

-- The blobs to which a job refers. `job.knobs` is 16 more in a job that refers to some.
CREATE TABLE blob_use (
    rid INTEGER,
    digest BLOB,
    PRIMARY KEY (rid, digest)
) STRICT, WITHOUT ROWID;

-- How many blobs a tenant has. One that has none may have no row.
CREATE TABLE blob_count (
    tenant TEXT PRIMARY KEY,
    blobs INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

ALTER TABLE stored ADD COLUMN blobs INTEGER NOT NULL DEFAULT 0;
ALTER TABLE storage_limit ADD COLUMN blobs INTEGER NOT NULL DEFAULT 0;
