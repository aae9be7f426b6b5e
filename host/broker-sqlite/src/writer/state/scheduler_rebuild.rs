//! The scheduler and the file: what of it is stored, and how it is read when the file is opened.
//!
//! Stored are the counts of each tenant queue (the table `line`), the controls and the used rates. Sub-queues, blocks
//! and what counts for a limit are made anew from the jobs: a queued or running job with a value in `job.lane` is in
//! the sub-queue of its task and of the key in its options.

use rusqlite::{Connection, Row};
use tracing::warn;
use umbel_broker::scheduler::{Counts, QueueId, Scheduler, SubQueueName};
use umbel_model::JobState;

use crate::{
    error::Fault,
    rows::{self, RUNS, all, each, first, get, known_queue, one, queue_row, read, run},
};

const LOAD: &str = "SELECT tenant, queue, id, ready, running, delayed, paused, tag, dead, holder, used_at
    FROM line ORDER BY id";
const PLAIN: &str = "SELECT line - 1, score, rid FROM job INDEXED BY job_ready WHERE state = 1 AND lane IS NULL";
const IN_SUB_QUEUES: &str = "SELECT task, coalesce(json_extract(text, '$.limits.key'), ''), line - 1, score, job.rid
    FROM job INDEXED BY job_ready LEFT JOIN knobs ON knobs.rid = job.rid WHERE state = 1 AND lane IS NOT NULL";
const RUNNING: &str = "SELECT task, coalesce(json_extract(text, '$.limits.key'), ''), line - 1, lane IS NOT NULL
    FROM job INDEXED BY job_at LEFT JOIN knobs ON knobs.rid = job.rid WHERE phase = ? AND at IS NOT NULL
    AND state = ?";
const SAVE: &str = "UPDATE line SET ready = ?, running = ?, delayed = ?, paused = ?, tag = ?, dead = ?, holder = ?,
    used_at = ? WHERE id = ?";

/// Reads the file.
pub(crate) fn load(conn: &Connection) -> Result<Scheduler<i64>, Fault> {
    let mut scheduler = Scheduler::default();
    load_controls(conn, &mut scheduler)?;
    scheduler.seq = one(conn, "SELECT seq FROM meta", &[], first)?.unwrap_or(0);
    let stored = all(conn, LOAD, &[], |row| Ok((get(row, 0)?, get(row, 1)?, get::<i64>(row, 2)?, decode(row)?)))?;
    for (at, (tenant, queue, row, counts)) in stored.iter().enumerate() {
        let id = scheduler.queue_id(tenant, queue);
        if id != at || *row != queue_row(id) {
            return Err(Fault::stored("line", "a row is missing"));
        }
        scheduler.restore_counts(id, counts.clone());
    }
    let queues = stored.len();
    each(conn, PLAIN, &[], |row| {
        scheduler.restore(known_queue(queues, get(row, 0)?)?, None, Some((get(row, 1)?, get(row, 2)?)));
        Ok(true)
    })?;
    each(conn, IN_SUB_QUEUES, &[], |row| {
        let sub_queue = read!(row => SubQueueName { task, key });
        let job = (get(row, 3)?, get(row, 4)?);
        scheduler.restore(known_queue(queues, get(row, 2)?)?, Some(&sub_queue), Some(job));
        Ok(true)
    })?;
    each(conn, RUNNING, &[&RUNS, &JobState::Running], |row| {
        let sub_queue = read!(row => SubQueueName { task, key });
        let sub_queue = Some(&sub_queue).filter(|_| matches!(get(row, 3), Ok(true)));
        scheduler.restore(known_queue(queues, get(row, 2)?)?, sub_queue, None);
        Ok(true)
    })?;
    scheduler.open_all();
    for (id, (.., stored)) in stored.iter().enumerate() {
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
    each(conn, "SELECT tenant, kind, name, text FROM control", &[], |row| {
        scheduler.controls.put(&get(row, 0)?, &rows::scope(row, 1)?, get(row, 3)?);
        Ok(true)
    })
}

fn decode(row: &Row<'_>) -> Result<Counts, Fault> {
    let mut counts = Counts::default();
    (counts.ready, counts.running, counts.delayed) = (get(row, 3)?, get(row, 4)?, get(row, 5)?);
    (counts.paused, counts.finish, counts.dead) = (get(row, 6)?, get(row, 7)?, get(row, 8)?);
    (counts.holder, counts.used_at) = (get(row, 9)?, get(row, 10)?);
    Ok(counts)
}

/// The columns of a tenant queue's counts, in the order of `SAVE`.
type CountsRow<'a> = (u64, u64, u64, bool, Option<u64>, u64, Option<&'a str>, Option<u64>);

/// What is stored of counts.
fn counts_row(of: &Counts) -> CountsRow<'_> {
    let holder = of.holder.as_ref().map(|holder| holder.as_str());
    (of.ready, of.running, of.delayed, of.paused, of.finish, of.dead, holder, of.used_at)
}

fn save(conn: &Connection, id: QueueId, counts: &Counts) -> Result<(), Fault> {
    let (ready, running, delayed, paused, finish, dead, holder, used_at) = counts_row(counts);
    run(conn, SAVE, &[&ready, &running, &delayed, &paused, &finish, &dead, &holder, &used_at, &queue_row(id)])
}

/// Writes what the group changed of tenant queues. `all`: what is stored may differ from what was before the group.
pub(crate) fn flush(conn: &Connection, scheduler: &Scheduler<i64>, all: bool) -> Result<(), Fault> {
    let changed = |(id, before): &&(QueueId, Counts)| all || counts_row(scheduler.counts(*id)) != counts_row(before);
    let changed = scheduler.changed().iter().filter(changed).map(|(id, _)| *id);
    for id in changed {
        save(conn, id, scheduler.counts(id))?;
    }
    if scheduler.seq != scheduler.seq_kept() {
        run(conn, "UPDATE meta SET seq = ?", &[&scheduler.seq])?;
    }
    Ok(())
}
