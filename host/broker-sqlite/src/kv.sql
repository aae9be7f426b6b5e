-- Schema 10: key-value entries. `value` is last: what is in front of it is read without it.
CREATE TABLE kv (
    tenant TEXT NOT NULL,
    bucket TEXT NOT NULL,
    key TEXT NOT NULL,
    version INTEGER NOT NULL,
    expires_at INTEGER,
    value BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX kv_key ON kv (tenant, bucket, key);
CREATE INDEX kv_expiry ON kv (expires_at) WHERE expires_at IS NOT NULL;

-- Buckets that have entries, and how many.
CREATE TABLE kv_bucket (
    tenant TEXT NOT NULL,
    bucket TEXT NOT NULL,
    entries INTEGER NOT NULL,
    PRIMARY KEY (tenant, bucket)
) STRICT, WITHOUT ROWID;

-- The last version of an entry of a tenant: it stays when the entry goes.
CREATE TABLE kv_version (
    tenant TEXT PRIMARY KEY,
    last INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

ALTER TABLE stored ADD COLUMN kv INTEGER NOT NULL DEFAULT 0;
ALTER TABLE storage_limit ADD COLUMN kv INTEGER NOT NULL DEFAULT 0;
