//! The scheduler and the file: what of it is stored, and how it is read when the file is opened.
//!
//! Stored are the counts of each tenant queue (the table `line`), the controls and the used rates. Sub-queues, blocks
//! and what counts for a limit are made anew from the jobs: a queued or running job with a value in `job.lane` is in
//! the sub-queue of its task and of the key in its options.

use rusqlite::{Connection, Row, params};
use tracing::warn;
use umbel_broker::scheduler::{Counts, QueueId, Scheduler, SubQueueName};
use umbel_model::JobState;

use crate::{
    error::Fault,
    rows::{self, RUNS, int, json, name, number, queue_id, queue_row, time},
};

/// Tenant queues that are written by one statement: more of them than that cost less together.
const MANY: usize = 8;

const LOAD: &str = "SELECT id, tenant, queue, ready, running, delayed, paused, tag, dead, holder, used_at
    FROM line ORDER BY id";
const PLAIN: &str = "SELECT line, score, rid FROM job INDEXED BY job_ready WHERE state = 1 AND lane IS NULL";
const IN_SUB_QUEUES: &str = "SELECT line, score, job.rid, task, coalesce(json_extract(text, '$.limits.key'), '')
    FROM job INDEXED BY job_ready LEFT JOIN knobs ON knobs.rid = job.rid WHERE state = 1 AND lane IS NOT NULL";
const RUNNING: &str = "SELECT line, state, lane, task, coalesce(json_extract(text, '$.limits.key'), '')
    FROM job INDEXED BY job_at LEFT JOIN knobs ON knobs.rid = job.rid WHERE phase = ? AND at IS NOT NULL";
const SAVE: &str = "UPDATE line SET ready = ?, running = ?, delayed = ?, paused = ?, tag = ?, dead = ?, holder = ?,
    used_at = ? WHERE id = ?";
const SAVE_MANY: &str = "UPDATE line SET ready = of ->> 1, running = of ->> 2, delayed = of ->> 3, paused = of ->> 4,
    tag = of ->> 5, dead = of ->> 6, holder = of ->> 7, used_at = of ->> 8
    FROM (SELECT value AS of FROM json_each(?)) AS changed WHERE line.id = changed.of ->> 0";

/// Reads the file.
pub(in crate::writer) fn load(conn: &Connection) -> Result<Scheduler<i64>, Fault> {
    let mut scheduler = Scheduler::default();
    load_controls(conn, &mut scheduler)?;
    scheduler.restore_seq(conn.query_row("SELECT seq FROM meta", [], |row| row.get::<_, i64>(0))?.unsigned_abs());
    let mut stored = Vec::new();
    each(conn, LOAD, [], |row| {
        let id = scheduler.queue_id(&name(row, 1)?, &name(row, 2)?);
        if number(row, 0)? != stored.len() as u64 + 1 || id != stored.len() {
            return Err(Fault::stored("line", "a row is missing"));
        }
        let counts = decode(row)?;
        scheduler.restore_counts(id, counts.clone());
        stored.push(counts);
        Ok(())
    })?;
    let queues = stored.len();
    each(conn, PLAIN, [], |row| {
        scheduler.restore(queue_id(queues, number(row, 0)?)?, None, Some((number(row, 1)?, row.get(2)?)));
        Ok(())
    })?;
    each(conn, IN_SUB_QUEUES, [], |row| {
        let sub_queue = SubQueueName { task: name(row, 3)?, key: row.get(4)? };
        let job = (number(row, 1)?, row.get(2)?);
        scheduler.restore(queue_id(queues, number(row, 0)?)?, Some(&sub_queue), Some(job));
        Ok(())
    })?;
    each(conn, RUNNING, [RUNS], |row| {
        if rows::state(row, 1)? == JobState::Running {
            let sub_queue = SubQueueName { task: name(row, 3)?, key: row.get(4)? };
            let sub_queue = Some(&sub_queue)
                .filter(|_| matches!(row.get_ref(2), Ok(found) if found != rusqlite::types::ValueRef::Null));
            scheduler.restore(queue_id(queues, number(row, 0)?)?, sub_queue, None);
        }
        Ok(())
    })?;
    scheduler.open_all();
    for (id, stored) in stored.iter().enumerate() {
        let counts = scheduler.counts(id);
        if (counts.ready, counts.running) != (stored.ready, stored.running) {
            warn!(queue = %scheduler.queue(id), "a queue counted jobs that are not there: it was counted anew");
        }
        // Readers see by it what can be handed out. Counts that disagree are found by an audit, too.
        if counts.finish != stored.finish {
            save(conn, id, counts)?;
        }
    }
    Ok(scheduler)
}

fn load_controls(conn: &Connection, scheduler: &mut Scheduler<i64>) -> Result<(), Fault> {
    each(conn, "SELECT tenant, kind, name, text FROM control", [], |row| {
        let text = row.get_ref(3)?.as_str().map_err(|error| Fault::stored("control", error))?;
        scheduler.controls.put(&name(row, 0)?, &rows::scope(row, 1)?, json("control", text)?);
        Ok(())
    })
}

fn each(
    conn: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
    mut take: impl FnMut(&Row<'_>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut statement = conn.prepare(sql)?;
    let mut rows = statement.query(params)?;
    while let Some(row) = rows.next()? {
        take(row)?;
    }
    Ok(())
}

fn decode(row: &Row<'_>) -> Result<Counts, Fault> {
    let (mut counts, holder) = (Counts::default(), row.get::<_, Option<String>>(9)?);
    (counts.ready, counts.running, counts.delayed) = (number(row, 3)?, number(row, 4)?, number(row, 5)?);
    (counts.paused, counts.finish, counts.dead) = (row.get(6)?, time(row, 7)?, number(row, 8)?);
    counts.used_at = time(row, 10)?;
    counts.holder = holder.map(|w| w.parse().map_err(|error| Fault::stored("holder of a line", error))).transpose()?;
    Ok(counts)
}

/// The columns of a tenant queue's counts, in the order of `SAVE`.
type CountsRow<'a> = (i64, i64, i64, bool, Option<i64>, i64, Option<&'a str>, Option<i64>);

/// What is stored of counts.
fn counts_row(of: &Counts) -> CountsRow<'_> {
    let (holder, used_at) = (of.holder.as_ref().map(|holder| holder.as_str()), of.used_at.map(int));
    (int(of.ready), int(of.running), int(of.delayed), of.paused, of.finish.map(int), int(of.dead), holder, used_at)
}

fn save(conn: &Connection, id: QueueId, counts: &Counts) -> Result<(), Fault> {
    let (ready, running, delayed, paused, finish, dead, holder, used_at) = counts_row(counts);
    let row = params![ready, running, delayed, paused, finish, dead, holder, used_at, queue_row(id)];
    conn.prepare_cached(SAVE)?.execute(row)?;
    Ok(())
}

/// Writes what the group changed of tenant queues. `all`: what is stored may differ from what was before the group.
pub(in crate::writer) fn flush(conn: &Connection, scheduler: &Scheduler<i64>, all: bool) -> Result<(), Fault> {
    let changed = |(id, before): &&(QueueId, Counts)| all || counts_row(scheduler.counts(*id)) != counts_row(before);
    let changed = scheduler.changed().iter().filter(changed).map(|(id, _)| *id);
    if scheduler.changed().len() > MANY {
        let row = |id| {
            let (ready, running, delayed, paused, finish, dead, holder, used_at) = counts_row(scheduler.counts(id));
            serde_json::json!([
                queue_row(id),
                ready,
                running,
                delayed,
                i64::from(paused),
                finish,
                dead,
                holder,
                used_at
            ])
        };
        let rows: Vec<serde_json::Value> = changed.map(row).collect();
        conn.prepare_cached(SAVE_MANY)?.execute([serde_json::to_string(&rows)?])?;
    } else {
        for id in changed {
            save(conn, id, scheduler.counts(id))?;
        }
    }
    if scheduler.seq() != scheduler.seq_kept() {
        conn.prepare_cached("UPDATE meta SET seq = ?")?.execute([int(scheduler.seq())])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_many_lines_costs_what_it_writes() {
        let plan = crate::tests::plan(SAVE_MANY);
        assert!(plan.contains("SEARCH line USING INTEGER PRIMARY KEY"), "{plan}");
    }
}
