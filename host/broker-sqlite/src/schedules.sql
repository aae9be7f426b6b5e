-- Schema 13: schedules. What changes with each fire is apart from the definition, which may be large.
CREATE TABLE schedule (
    rid INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    look_at INTEGER,
    created_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    -- The number of its last fire.
    fires INTEGER NOT NULL,
    state TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX schedule_name ON schedule (tenant, name);
CREATE INDEX schedule_look ON schedule (look_at, tenant, name) WHERE look_at IS NOT NULL;

CREATE TABLE schedule_definition (
    rid INTEGER PRIMARY KEY,
    text TEXT NOT NULL
) STRICT;

-- The newest fires of a schedule.
CREATE TABLE schedule_fire (
    rid INTEGER,
    number INTEGER,
    text TEXT NOT NULL,
    PRIMARY KEY (rid, number)
) STRICT, WITHOUT ROWID;

-- The last revision of a schedule of a tenant: it stays when the schedule goes.
CREATE TABLE schedule_revision (
    tenant TEXT PRIMARY KEY,
    last INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
