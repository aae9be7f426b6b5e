//! The audit: checks for what should not be in a database. `writer::maintenance::repair` repairs it.
//!
//! Reads one view of what is committed: what is under way is not taken for an error, and nobody waits for it.

use std::collections::HashMap;

use rusqlite::Connection;
use umbel_broker::Finding;
use umbel_model::{JobState, UnixMs};

use crate::{
    error::Fault,
    rows::{JobCounts, Numbered, all, get},
    storage::{job_bytes, log_bytes, of_result, of_spec, sums, workflow_bytes},
};

/// How something that was found is repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repair {
    /// By these statements. `:now` in them is the time.
    Sql(&'static [&'static str]),
    /// By taking them off the work list.
    WorkItems,
    /// By a restored backup only.
    Nothing,
}

/// Something to look for.
#[derive(Debug)]
pub(crate) struct Check {
    pub(crate) name: &'static str,
    /// Finds a text that says where, for each.
    sql: &'static str,
    pub(crate) repair: Repair,
}

/// A check of rows: what is wrong with some of a table, how one is shown, and the statement that repairs those, up to its
/// `WHERE`; none when only a backup helps.
macro_rules! rows {
    ($name:expr, $table:expr, $shown:expr, $wrong:expr $(, $repair:expr)?) => {
        Check {
            name: $name,
            sql: concat!("SELECT ", $shown, " FROM ", $table, " WHERE ", $wrong),
            repair: rows!(@repair $wrong $(, $repair)?),
        }
    };
    (@repair $wrong:expr) => { Repair::Nothing };
    (@repair $wrong:expr, $repair:expr) => { Repair::Sql(&[concat!($repair, " WHERE ", $wrong)]) };
}

/// Jobs, or workflows, with which something is wrong.
macro_rules! named {
    ($table:literal, $name:literal, $wrong:expr $(, $repair:literal)?) => {
        rows!($name, $table, "tenant || ' ' || hex(id)", $wrong $(, $repair)?)
    };
}

/// Parts of a job whose row is gone.
macro_rules! orphans {
    ($table:literal) => {
        rows!(
            concat!($table, " of a job that is gone"),
            concat!($table, " AS part"),
            "'row ' || rid",
            "NOT EXISTS (SELECT 1 FROM job WHERE job.rid = part.rid)",
            concat!("DELETE FROM ", $table, " AS part")
        )
    };
}

/// Parts of a workflow whose row is gone.
macro_rules! parts {
    ($table:literal, $column:literal) => {
        rows!(
            concat!($table, " of a workflow that is gone"),
            concat!($table, " AS part"),
            concat!("'row ' || part.", $column),
            concat!("NOT EXISTS (SELECT 1 FROM workflow WHERE workflow.rid = part.", $column, ")"),
            concat!("DELETE FROM ", $table, " AS part")
        )
    };
}

/// Nodes of a graph, or joins, with which something is wrong.
macro_rules! numbered {
    ($table:literal, $name:literal, $wrong:literal $(, $repair:literal)?) => {
        rows!($name, $table, "'row ' || workflow || ', node ' || number", $wrong $(, $repair)?)
    };
}

/// Tenant queues whose counts are not those of their jobs.
macro_rules! line_counts {
    ($name:literal, $column:literal, $which:literal) => {
        Check {
            name: $name,
            sql: concat!(
                "SELECT queue || ' of ' || tenant FROM line LEFT JOIN (SELECT line AS of, count(*) AS n FROM job WHERE ",
                $which,
                " GROUP BY line) AS counted ON counted.of = line.id WHERE ",
                $column,
                " <> coalesce(n, 0)"
            ),
            repair: Repair::Sql(&[concat!(
                "UPDATE line SET ",
                $column,
                " = (SELECT count(*) FROM job WHERE job.line = line.id AND ",
                $which,
                ")"
            )]),
        }
    };
}

/// Jobs that refer to each blob.
macro_rules! uses {
    () => {
        "SELECT job.tenant, blob_use.digest, count(*) AS n FROM blob_use CROSS JOIN job ON job.rid = blob_use.rid
            GROUP BY job.tenant, blob_use.digest"
    };
}

// In this order they are repaired: first what owns, then what is owned, then what is counted. The numbers of states are in
// `rows.rs`: 0 scheduled, 1 queued, 2 running, 3 retrying, 4 to 7 and 9 ended, 8 waiting.
pub(crate) const CHECKS: &[Check] = &[
    named!(
        "job",
        "job of a workflow that is gone",
        "workflow IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM node WHERE node.workflow = job.workflow AND node.rid = job.rid)",
        "DELETE FROM job"
    ),
    parts!("node", "workflow"),
    parts!("gate", "workflow"),
    parts!("template", "workflow"),
    parts!("workflow_spec", "rid"),
    named!(
        "workflow",
        "workflow without its spec",
        "NOT EXISTS (SELECT 1 FROM workflow_spec WHERE workflow_spec.rid = workflow.rid)"
    ),
    numbered!(
        "node",
        "node without its job",
        "rid IS NOT NULL AND NOT EXISTS (SELECT 1 FROM job WHERE job.rid = node.rid)"
    ),
    numbered!(
        "gate",
        "gate without its node",
        "NOT EXISTS
        (SELECT 1 FROM node WHERE node.workflow = gate.workflow AND node.number = gate.number AND rid IS NULL)",
        "DELETE FROM gate"
    ),
    numbered!(
        "node",
        "node without its gate",
        "rid IS NULL
        AND NOT EXISTS (SELECT 1 FROM gate WHERE gate.workflow = node.workflow AND gate.number = node.number)"
    ),
    Check {
        name: "work item of a workflow that is gone",
        sql: "SELECT 'item ' || seq FROM todo WHERE kind IN (0, 1)
            AND NOT EXISTS (SELECT 1 FROM workflow WHERE workflow.rid = todo.workflow)",
        repair: Repair::WorkItems,
    },
    named!("job", "job without its spec", "NOT EXISTS (SELECT 1 FROM spec WHERE spec.rid = job.rid)"),
    named!(
        "job",
        "job without its knobs",
        "knobs & 7 AND NOT EXISTS (SELECT 1 FROM knobs WHERE knobs.rid = job.rid)",
        "UPDATE job SET knobs = knobs & 24"
    ),
    orphans!("spec"),
    orphans!("outcome"),
    orphans!("progress"),
    orphans!("history"),
    orphans!("log"),
    orphans!("knobs"),
    orphans!("label"),
    orphans!("blob_use"),
    named!(
        "job",
        "job whose labels are not those of its row",
        "(knobs & 8 > 0) <> EXISTS (SELECT 1 FROM label INDEXED BY label_job WHERE label.rid = job.rid)",
        "UPDATE job SET knobs = knobs & 23 | iif(EXISTS (SELECT 1 FROM label WHERE label.rid = job.rid), 8, 0)"
    ),
    Check {
        name: "job that is not found by its label",
        sql: "SELECT tenant || ' ' || hex(id) FROM job WHERE workflow IS NULL AND knobs & 8 = 0
            AND NOT EXISTS (SELECT 1 FROM unlabelled) AND EXISTS (SELECT 1 FROM spec WHERE spec.rid = job.rid
            AND (instr(text, '\"tags\":[') OR instr(text, '\"headers\":{')) AND CASE WHEN json_valid(text)
            THEN json_array_length(text, '$.tags') > 0 OR json_extract(text, '$.headers') <> '{}' END)",
        repair: Repair::Sql(&["INSERT INTO unlabelled SELECT max(rid) FROM job"]),
    },
    named!(
        "job",
        "job whose phase is not that of its state",
        "phase <> CASE WHEN state IN (0, 1, 3, 8) THEN 0 WHEN state = 2 THEN 1 ELSE 2 END",
        "UPDATE job SET phase = CASE WHEN state IN (0, 1, 3, 8) THEN 0 WHEN state = 2 THEN 1 ELSE 2 END"
    ),
    named!(
        "job",
        "job that nothing will look at again",
        "at IS NULL AND (state IN (0, 2, 3) OR (state IN (4, 5, 6, 7, 9) AND workflow IS NULL))",
        "UPDATE job SET at = :now"
    ),
    rows!(
        "job in the dead set that did not fail",
        "job INDEXED BY job_dead",
        "tenant || ' ' || hex(id)",
        "dead = 1 AND state <> 5",
        "UPDATE job SET dead = 0"
    ),
    named!(
        "workflow",
        "workflow that nothing will delete",
        "delete_at IS NULL AND (staged = 1 OR (finished_at IS NOT NULL AND (parent IS NULL OR orphaned = 1)))",
        "UPDATE workflow SET delete_at = :now"
    ),
    named!(
        "workflow",
        "workflow that replaced a job that is gone",
        "parent IS NOT NULL AND orphaned = 0 AND staged = 0 AND NOT EXISTS
        (SELECT 1 FROM job INDEXED BY job_id WHERE job.tenant = workflow.tenant AND job.id = workflow.parent)",
        "UPDATE workflow SET orphaned = 1, delete_at = iif(finished_at IS NULL, NULL, :now)"
    ),
    rows!(
        "unique key of a job that ended",
        "unique_key AS held",
        "tenant || ' ' || key",
        "until = 0 AND NOT EXISTS (SELECT 1 FROM job INDEXED BY job_id
            WHERE job.tenant = held.tenant AND job.id = held.id AND phase <> 2 AND knobs & 4)",
        "DELETE FROM unique_key AS held"
    ),
    named!(
        "job",
        "job in a lane in which it does not wait or run",
        "lane IS NOT NULL AND state NOT IN (1, 2)",
        "UPDATE job SET lane = NULL"
    ),
    named!(
        "job",
        "job with limits that waits in no lane",
        "state = 1 AND lane IS NULL AND knobs & 2",
        "UPDATE job SET lane = 1"
    ),
    Check {
        name: "events that are not those of a following",
        sql: "SELECT event.tenant FROM event LEFT JOIN followed ON followed.tenant = event.tenant GROUP BY event.tenant
            HAVING max(number) IS NOT last OR count(*) <> max(number) - min(number) + 1",
        repair: Repair::Sql(&["DELETE FROM event WHERE tenant IN
            (SELECT event.tenant FROM event LEFT JOIN followed ON followed.tenant = event.tenant GROUP BY event.tenant
            HAVING max(number) IS NOT last OR count(*) <> max(number) - min(number) + 1)"]),
    },
    line_counts!("queued jobs of a line", "ready", "state = 1"),
    line_counts!("running jobs of a line", "running", "state = 2"),
    line_counts!("delayed jobs of a line", "delayed", "state IN (0, 3)"),
    line_counts!("dead jobs of a line", "dead", "dead = 1"),
    Check {
        name: "workflows of a tenant",
        sql: "SELECT tenant FROM workflow_count AS c WHERE
            held <> (SELECT count(*) FROM workflow WHERE workflow.tenant = c.tenant AND parent IS NULL AND pruned IS NULL)
            OR nodes <> (SELECT coalesce(sum(nodes), 0) FROM workflow WHERE workflow.tenant = c.tenant)
            UNION SELECT tenant FROM workflow WHERE tenant NOT IN (SELECT tenant FROM workflow_count)",
        repair: Repair::Sql(&[
            "DELETE FROM workflow_count",
            "INSERT INTO workflow_count (tenant, held, nodes) SELECT tenant,
                count(*) FILTER (WHERE parent IS NULL AND pruned IS NULL), sum(nodes) FROM workflow GROUP BY tenant",
        ]),
    },
    Check {
        name: "bytes of a job",
        sql: concat!(
            "SELECT tenant || ' ' || hex(id) FROM job WHERE log_bytes <> ",
            log_bytes!(),
            " OR bytes <> ",
            job_bytes!()
        ),
        repair: Repair::Sql(&[
            concat!("UPDATE job SET log_bytes = ", log_bytes!(), " WHERE log_bytes <> ", log_bytes!()),
            concat!("UPDATE job SET bytes = ", job_bytes!(), " WHERE bytes <> ", job_bytes!()),
        ]),
    },
    Check {
        name: "bytes of a workflow",
        sql: concat!("SELECT tenant || ' ' || hex(id) FROM workflow WHERE bytes <> ", workflow_bytes!()),
        repair: Repair::Sql(&[concat!("UPDATE workflow SET bytes = ", workflow_bytes!())]),
    },
    Check {
        name: "entries of a bucket",
        sql: "SELECT coalesce(real.tenant, known.tenant) || ' ' || coalesce(real.bucket, known.bucket) FROM kv_bucket AS known
            FULL JOIN (SELECT tenant, bucket, count(*) AS entries FROM kv GROUP BY tenant, bucket) AS real
            ON real.tenant = known.tenant AND real.bucket = known.bucket WHERE known.entries IS NOT real.entries",
        repair: Repair::Sql(&[
            "DELETE FROM kv_bucket",
            "INSERT INTO kv_bucket SELECT tenant, bucket, count(*) FROM kv GROUP BY tenant, bucket",
        ]),
    },
    Check {
        name: "version of an entry that was not given",
        sql: "SELECT kv.tenant FROM kv LEFT JOIN kv_version AS given ON given.tenant = kv.tenant
            GROUP BY kv.tenant HAVING max(version) > coalesce(last, 0)",
        repair: Repair::Sql(&["INSERT OR REPLACE INTO kv_version SELECT kv.tenant, max(max(version), coalesce(last, 0))
            FROM kv LEFT JOIN kv_version AS given ON given.tenant = kv.tenant GROUP BY kv.tenant"]),
    },
    named!(
        "job",
        "job whose blobs are not those of its row",
        "(knobs & 16 > 0) <> EXISTS (SELECT 1 FROM blob_use WHERE blob_use.rid = job.rid)",
        "UPDATE job SET knobs = knobs & 15 | iif(EXISTS (SELECT 1 FROM blob_use WHERE blob_use.rid = job.rid), 16, 0)"
    ),
    Check {
        name: "references of a blob",
        sql: concat!(
            "SELECT blob.tenant || ' ' || hex(blob.digest) FROM blob LEFT JOIN (",
            uses!(),
            ") AS counted ON counted.tenant = blob.tenant AND counted.digest = blob.digest
            WHERE uses <> coalesce(n, 0) OR (unused_since IS NULL) <> (uses > 0)"
        ),
        repair: Repair::Sql(&[
            "UPDATE blob SET uses = 0",
            concat!(
                "UPDATE blob SET uses = n FROM (",
                uses!(),
                ") AS counted WHERE counted.tenant = blob.tenant AND counted.digest = blob.digest"
            ),
            "UPDATE blob SET unused_since = iif(uses > 0, NULL, coalesce(unused_since, :now))",
        ]),
    },
    Check {
        name: "blobs of a tenant",
        sql: "SELECT coalesce(real.tenant, known.tenant) FROM blob_count AS known
            FULL JOIN (SELECT tenant, count(*) AS blobs FROM blob GROUP BY tenant) AS real ON real.tenant = known.tenant
            WHERE coalesce(known.blobs, 0) <> coalesce(real.blobs, 0)",
        repair: Repair::Sql(&[
            "DELETE FROM blob_count",
            "INSERT INTO blob_count SELECT tenant, count(*) FROM blob GROUP BY tenant",
        ]),
    },
    rows!(
        "schedule without a definition",
        "schedule",
        "tenant || ' ' || name",
        "NOT EXISTS (SELECT 1 FROM schedule_definition AS definition WHERE definition.rid = schedule.rid)",
        "DELETE FROM schedule"
    ),
    rows!(
        "definition of a schedule that is gone",
        "schedule_definition AS part",
        "'row ' || rid",
        "NOT EXISTS (SELECT 1 FROM schedule WHERE schedule.rid = part.rid)",
        "DELETE FROM schedule_definition AS part"
    ),
    rows!(
        "fire that is none of its schedule",
        "schedule_fire AS part",
        "'row ' || rid || ', fire ' || number",
        "NOT EXISTS (SELECT 1 FROM schedule WHERE schedule.rid = part.rid AND number BETWEEN fires - 99 AND fires)",
        "DELETE FROM schedule_fire AS part"
    ),
    Check {
        name: "revision of a schedule that was not given",
        sql: "SELECT schedule.tenant FROM schedule LEFT JOIN schedule_revision AS given ON given.tenant = schedule.tenant
            GROUP BY schedule.tenant HAVING max(revision) > coalesce(last, 0)",
        repair: Repair::Sql(&["INSERT OR REPLACE INTO schedule_revision
            SELECT schedule.tenant, max(max(revision), coalesce(last, 0)) FROM schedule
            LEFT JOIN schedule_revision AS given ON given.tenant = schedule.tenant GROUP BY schedule.tenant"]),
    },
    Check {
        name: "bytes of a tenant",
        sql: concat!(
            "SELECT coalesce(real.tenant, stored.tenant) FROM stored FULL JOIN (",
            sums!(),
            ") AS real ON real.tenant = stored.tenant
            WHERE coalesce(stored.jobs, 0) <> coalesce(real.jobs, 0) OR coalesce(stored.logs, 0) <> coalesce(real.logs, 0)
            OR coalesce(stored.documents, 0) <> coalesce(real.documents, 0)
            OR coalesce(stored.modules, 0) <> coalesce(real.modules, 0) OR coalesce(stored.kv, 0) <> coalesce(real.kv, 0)
            OR coalesce(stored.blobs, 0) <> coalesce(real.blobs, 0)"
        ),
        repair: Repair::Sql(&["DELETE FROM stored", concat!("INSERT INTO stored ", sums!())]),
    },
];

/// The count of jobs by state of a workflow disagrees with its jobs. Its check is not a statement.
pub(crate) const MISCOUNTED_WORKFLOW: &str = "jobs of a workflow";

/// Runs all checks.
pub(crate) fn findings(conn: &Connection) -> Result<Vec<Finding>, Fault> {
    let mut found = Vec::new();
    for check in CHECKS {
        if let Some(finding) = finding(conn, check)? {
            found.push(finding);
        }
    }
    let miscounted = miscounted_workflows(conn)?;
    if let Some(first) = miscounted.first() {
        found.push(of(MISCOUNTED_WORKFLOW, miscounted.len() as u64, format!("row {}", first.0)));
    }
    let mode: String = conn.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    if mode != "wal" && mode != "memory" {
        found.push(of("journal mode of the file", 1, mode));
    }
    let sound: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if sound != "ok" {
        found.push(of("damage of the file", 1, sound));
    }
    Ok(found)
}

fn of(check: &str, count: u64, example: String) -> Finding {
    Finding { check: check.to_owned(), count, example, fixed: 0 }
}

/// The finding of one check.
pub(crate) fn finding(conn: &Connection, check: &Check) -> Result<Option<Finding>, Fault> {
    let sql =
        format!("SELECT count(*), min(found.what) FROM (SELECT NULL AS what WHERE 0 UNION ALL {}) AS found", check.sql);
    let (count, example) =
        conn.query_row(&sql, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Option<String>>(1)?)))?;
    Ok((count > 0).then(|| of(check.name, count.unsigned_abs(), example.unwrap_or_default())))
}

/// Rows of workflows that count their jobs wrongly, with the right counts. One that is being deleted counts what it had.
pub(crate) fn miscounted_workflows(conn: &Connection) -> Result<Vec<(i64, JobCounts)>, Fault> {
    let mut real = HashMap::<i64, JobCounts>::new();
    let sql = "SELECT workflow, state, count(*) FROM job WHERE workflow IS NOT NULL GROUP BY workflow, state";
    for (rid, state, n) in all(conn, sql, &[], |row| Ok((get(row, 0)?, get::<JobState>(row, 1)?, get(row, 2)?)))? {
        real.entry(rid).or_default()[state.number() as usize] = n;
    }
    let sql = "SELECT rid, jobs FROM workflow WHERE pruned IS NULL";
    let counted: Vec<(i64, JobCounts)> = all(conn, sql, &[], |row| Ok((get(row, 0)?, get(row, 1)?)))?;
    let real = counted.into_iter().map(|(rid, jobs)| (rid, jobs, real.get(&rid).copied().unwrap_or_default()));
    Ok(real.filter(|(_, jobs, real)| jobs != real).map(|(rid, _, real)| (rid, real)).collect())
}

/// Runs the statements that repair what a check found.
pub(crate) fn repair_by_sql(conn: &Connection, now: UnixMs, statements: &[&str]) -> Result<(), Fault> {
    let now = crate::rows::int(now);
    for sql in statements {
        let mut statement = conn.prepare(sql)?;
        match statement.parameter_count() {
            0 => statement.execute([])?,
            _ => statement.execute([now])?,
        };
    }
    Ok(())
}
