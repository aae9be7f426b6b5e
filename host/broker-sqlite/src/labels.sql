-- Schema 8: the labels (tags and headers) of jobs, on top of schema 7, so that lists find jobs by them. Nodes have none here.
-- `job.knobs` is 8 more in a job that has some.
CREATE TABLE label (
    tenant TEXT NOT NULL,
    hash TEXT NOT NULL,
    id BLOB NOT NULL,
    rid INTEGER NOT NULL,
    PRIMARY KEY (tenant, hash, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX label_job ON label (rid);

-- While it has a row, labels of the jobs up to this `rid` may be missing.
CREATE TABLE unlabelled (upto INTEGER NOT NULL) STRICT;
INSERT INTO unlabelled SELECT max(rid) FROM job HAVING count(*) > 0;
