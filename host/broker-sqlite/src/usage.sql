-- Schema 11: what attempts took, by tenant, task and hour (since the epoch). The task is empty of those that have no row of their own.
-- Attempts of a history are lists from here on, see the broker's rules/history.rs; those that are there stay objects.
CREATE TABLE usage (
    tenant TEXT NOT NULL,
    hour INTEGER NOT NULL,
    task TEXT NOT NULL,
    succeeded INTEGER NOT NULL,
    duration_us INTEGER NOT NULL,
    fuel INTEGER NOT NULL,
    cpu_us INTEGER NOT NULL,
    memory_kib_ms INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    retried INTEGER NOT NULL,
    other INTEGER NOT NULL,
    lost INTEGER NOT NULL,
    http_requests INTEGER NOT NULL,
    http_bytes_out INTEGER NOT NULL,
    http_bytes_in INTEGER NOT NULL,
    kv_operations INTEGER NOT NULL,
    blob_bytes_read INTEGER NOT NULL,
    blob_bytes_written INTEGER NOT NULL,
    PRIMARY KEY (tenant, hour, task)
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_hour ON usage (hour);
