-- Schema 6: queues that nobody uses are forgotten.

-- When a job came into it last, or it was seen in use, milliseconds; none: it is forgotten until a job comes into it. Its row
-- stays, because jobs that have ended name it.
ALTER TABLE line ADD COLUMN used_at INTEGER;
UPDATE line SET used_at = unixepoch() * 1000;
