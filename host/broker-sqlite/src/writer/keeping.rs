//! Unique keys and the dead set, and jobs that are deleted before their time.

use rusqlite::{OptionalExtension, params};
use umbel_broker::{Forgot, NewJob, SUPERSEDED, Start, Unique, Wins, superseded_message};
use umbel_model::{Failure, JobId, JobState, TenantId, UnixMs};

use super::{
    broker_options::UNIQUE,
    head::{self, Head},
    step::Step,
};
use crate::{
    error::Fault,
    rows::{self, int, number},
};

/// Unique keys that one prune deletes at most.
const UNIQUE_SWEEP: u32 = 5_000;

const HOLDER: &str = "SELECT id, until, since FROM unique_key WHERE tenant = ? AND key = ?";
const SWEEP_UNIQUE: &str = "DELETE FROM unique_key WHERE (tenant, key) IN
    (SELECT tenant, key FROM unique_key INDEXED BY unique_key_until WHERE until > 0 AND until <= ? LIMIT ?)";
const OLDEST_DEAD: &str = "SELECT id FROM job INDEXED BY job_dead WHERE tenant = ? AND dead = 1 ORDER BY id LIMIT 1";

/// Who holds a unique key.
struct Holder {
    id: JobId,
    /// 0: until it ends.
    until: UnixMs,
    /// Since when jobs took each other's place.
    since: UnixMs,
}

impl Step<'_> {
    // ---- unique keys

    fn holder(&self, tenant: &TenantId, key: &str) -> Result<Option<Holder>, Fault> {
        let mut statement = self.conn.prepare_cached(HOLDER)?;
        let mut rows = statement.query(params![tenant.as_str(), key])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        Ok(Some(Holder { id: rows::id(row, 0)?, until: number(row, 1)?, since: number(row, 2)? }))
    }

    /// The job that keeps a submission away.
    pub(super) fn first_of_its_like(&self, new: &NewJob) -> Result<Option<JobId>, Fault> {
        let Some(unique) = unique_of(new).filter(|unique| unique.wins == Wins::First) else { return Ok(None) };
        let holder = self.holder(&new.tenant, &unique.key)?;
        Ok(holder.filter(|holder| holder.until == 0 || holder.until > self.now).map(|holder| holder.id))
    }

    /// Gives a new job its unique key, and ends the one whose place it takes; when it starts, and the place in the line.
    pub(super) fn take_place(&mut self, new: &NewJob) -> Result<(Start, Option<u64>), Fault> {
        let Some(unique) = unique_of(new) else { return Ok((new.start, None)) };
        let (mut since, mut place) = (self.now, None);
        if unique.wins == Wins::Latest
            && let Some(holder) = self.holder(&new.tenant, &unique.key)?
            && let Some(old) = self.supersede(new, holder.id)?
        {
            (since, place) = (holder.since, old);
        }
        let until = if unique.for_ms > 0 { self.now.saturating_add(unique.for_ms) } else { 0 };
        let sql = "INSERT OR REPLACE INTO unique_key (tenant, key, id, until, since) VALUES (?, ?, ?, ?, ?)";
        let row = params![new.tenant.as_str(), unique.key, new.id.to_bytes(), int(until), int(since)];
        self.conn.prepare_cached(sql)?.execute(row)?;
        let start = match new.start {
            Start::After(ms) if unique.wins == Wins::Latest && unique.max_wait_ms > 0 => {
                Start::At(self.now.saturating_add(ms).min(since.saturating_add(unique.max_wait_ms)))
            }
            start => start,
        };
        Ok((start, place))
    }

    /// Ends a job that waits because a later one takes its place; if it did, that place in the line, when it had one.
    fn supersede(&mut self, by: &NewJob, old: JobId) -> Result<Option<Option<u64>>, Fault> {
        let Some(mut head) = head::by_id(self.conn, self.scheduler, &by.tenant, old)? else { return Ok(None) };
        if !matches!(head.state, JobState::Scheduled | JobState::Queued | JobState::Retrying) {
            return Ok(None);
        }
        // Always at the end of a long line, the latest of many would never run.
        let alike = *self.scheduler.queue(head.line) == by.queue && head.priority == by.priority;
        let place = (alike && head.state == JobState::Queued).then_some(head.score);
        head.put_failure(self.conn, &Failure::new(SUPERSEDED, superseded_message(by.id)))?;
        self.leave(&mut head)?;
        self.finish(&mut head, JobState::Revoked)?;
        self.save(&mut head)?;
        Ok(Some(place))
    }

    /// A job ends: it holds its key no more, or until the time that is answered.
    pub(super) fn release_key(&mut self, head: &mut Head) -> Result<UnixMs, Fault> {
        match self.held_by(head)? {
            Some((key, 0)) => {
                self.drop_key(head, &key)?;
                Ok(0)
            }
            held => Ok(held.map_or(0, |(_, until)| until)),
        }
    }

    /// The key that a job holds, and until when; 0: until it ends.
    fn held_by(&self, head: &mut Head) -> Result<Option<(String, UnixMs)>, Fault> {
        if head.has & UNIQUE == 0 {
            return Ok(None);
        }
        let unique = head.broker_options(self.conn)?.and_then(|broker_options| broker_options.unique.as_ref());
        let Some(key) = unique.map(|unique| unique.key.clone()) else { return Ok(None) };
        let holder = self.holder(self.scheduler.tenant(head.line), &key)?;
        Ok(holder.filter(|holder| holder.id == head.id).map(|holder| (key, holder.until)))
    }

    fn drop_key(&self, head: &Head, key: &str) -> Result<(), Fault> {
        let sql = "DELETE FROM unique_key WHERE tenant = ? AND key = ?";
        self.conn.prepare_cached(sql)?.execute(params![self.scheduler.tenant(head.line).as_str(), key])?;
        Ok(())
    }

    /// Forgets unique keys whose time is over; whether there may be more.
    pub(super) fn sweep_unique(&self) -> Result<bool, Fault> {
        let deleted = self.conn.prepare_cached(SWEEP_UNIQUE)?.execute([int(self.now), UNIQUE_SWEEP.into()])?;
        Ok(deleted as u64 == u64::from(UNIQUE_SWEEP))
    }

    // ---- the dead set

    /// Puts a job that ends into the dead set; the oldest leaves it when there are too many.
    pub(super) fn bury(&mut self, head: &mut Head) -> Result<(), Fault> {
        head.dead = true;
        self.scheduler.change(head.line, |counts| counts.dead += 1);
        let tenant = self.scheduler.tenant(head.line);
        if self.scheduler.sum(tenant, |counts| counts.dead) <= self.limits.max_dead {
            return Ok(());
        }
        let mut statement = self.conn.prepare_cached(OLDEST_DEAD)?;
        let oldest = statement.query_row([tenant.as_str()], |row| row.get(0)).optional()?.map(JobId::from_bytes);
        let Some(oldest) = oldest.filter(|oldest| *oldest < head.id) else { return self.leave_dead_for_room(head) };
        let Some(mut oldest) = head::by_id(self.conn, self.scheduler, tenant, oldest)? else { return Ok(()) };
        self.leave_dead_for_room(&mut oldest)?;
        self.save(&mut oldest)
    }

    fn leave_dead_for_room(&mut self, head: &mut Head) -> Result<(), Fault> {
        self.leave_dead(head);
        // Whoever holds a unique key still answers for it.
        let held = self.held_by(head)?.map_or(0, |(_, until)| until);
        let kept = head.finished_at.unwrap_or(0).saturating_add(head.result_ttl_ms);
        head.at = head.at.map(|_| held.max(kept));
        Ok(())
    }

    pub(super) fn leave_dead(&mut self, head: &mut Head) {
        if std::mem::take(&mut head.dead) {
            self.scheduler.change(head.line, |counts| counts.dead = counts.dead.saturating_sub(1));
        }
    }

    // ---- deletion

    pub(crate) fn forget(&mut self, tenant: &TenantId, id: JobId) -> Result<Forgot, Fault> {
        let Some(mut head) = head::by_id(self.conn, self.scheduler, tenant, id)? else { return Ok(Forgot::NotFound) };
        if let Some(workflow) = head.workflow {
            let hidden = self.flows.flow(self.conn, workflow)?.is_hidden();
            return Ok(if hidden { Forgot::NotFound } else { Forgot::Node });
        }
        if !head.state.is_terminal() {
            return Ok(Forgot::NotEnded(head.state));
        }
        // Nobody could look at what a duplicate is answered with.
        if let Some((key, _)) = self.held_by(&mut head)? {
            self.drop_key(&head, &key)?;
        }
        self.delete_job(&mut head)?;
        Ok(Forgot::Forgotten)
    }
}

fn unique_of(new: &NewJob) -> Option<&Unique> {
    new.broker_options.as_ref()?.unique.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_look_at_keys_and_dead_jobs_costs_more_because_there_are_more() {
        for sql in [HOLDER, SWEEP_UNIQUE, OLDEST_DEAD] {
            crate::tests::assert_costs_what_it_finds(sql);
        }
    }
}
