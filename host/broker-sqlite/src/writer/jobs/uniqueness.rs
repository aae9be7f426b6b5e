//! Unique keys: who holds them, and which submission supersedes which.

use umbel_broker::{
    NewJob, SUPERSEDED, Start, Wins,
    rules::uniqueness::{self, Holder, unique_of},
    superseded_message,
};
use umbel_model::{Failure, JobId, JobState, TenantId, UnixMs};

use crate::writer::{
    jobs::broker_options::UNIQUE,
    jobs::head::Head,
    jobs::head::{self},
    step::Step,
};
use crate::{
    error::Fault,
    rows::{changed, insert, one, read, run},
};

/// Unique keys that one prune deletes at most.
const UNIQUE_SWEEP: u32 = 5_000;

const HOLDER: &str = "SELECT id, until, since FROM unique_key WHERE tenant = ? AND key = ?";
const SWEEP_UNIQUE: &str = "DELETE FROM unique_key WHERE (tenant, key) IN
    (SELECT tenant, key FROM unique_key INDEXED BY unique_key_until WHERE until > 0 AND until <= ? LIMIT ?)";

impl Step<'_> {
    fn holder(&self, tenant: &TenantId, key: &str) -> Result<Option<Holder>, Fault> {
        one(self.conn, HOLDER, &[tenant, &key], |row| Ok(read!(row => Holder { id, until, since })))
    }

    /// The job that keeps a submission away.
    pub(crate) fn find_duplicate(&self, new: &NewJob) -> Result<Option<JobId>, Fault> {
        let Some(unique) = unique_of(new).filter(|unique| unique.wins == Wins::First) else { return Ok(None) };
        let holder = self.holder(&new.tenant, &unique.key)?;
        Ok(holder.filter(|holder| holder.holds(self.now)).map(|holder| holder.id))
    }

    /// Gives a new job its unique key, and ends the one that it supersedes; when it starts, and the place in the queue.
    pub(crate) fn supersede(&mut self, new: &NewJob) -> Result<(Start, Option<u64>), Fault> {
        let Some(unique) = unique_of(new) else { return Ok((new.start, None)) };
        let (mut since, mut place) = (self.now, None);
        if unique.wins == Wins::Latest
            && let Some(holder) = self.holder(&new.tenant, &unique.key)?
            && let Some(old) = self.end_superseded(new, holder.id)?
        {
            (since, place) = (holder.since, old);
        }
        let Holder { id, until, since } = Holder::new(new.id, unique, self.now, since);
        insert!(self.conn, "INSERT OR REPLACE INTO unique_key" {
            tenant: new.tenant, key: unique.key, id: id, until: until, since: since
        })?;
        Ok((uniqueness::start_of(new.start, unique, self.now, since), place))
    }

    /// Ends a job that waits because a later one supersedes it; if it did, its place in the queue, when it had one.
    fn end_superseded(&mut self, by: &NewJob, old: JobId) -> Result<Option<Option<u64>>, Fault> {
        let Some(mut head) = head::by_id(self.conn, self.scheduler, &by.tenant, old)? else { return Ok(None) };
        let failure = Failure::new(SUPERSEDED, superseded_message(by.id));
        if uniqueness::is_let_end(head.state, head.cancel_requested) {
            (head.cancel_requested, head.let_end) = (true, true);
            head.put_failure(self.conn, &failure)?;
            self.save(&mut head)?;
        }
        if !uniqueness::can_be_superseded(head.state) {
            return Ok(None);
        }
        let queue = self.scheduler.queue(head.queue_id);
        let place = uniqueness::place_taken(by, queue, head.priority, head.state, head.score);
        head.put_failure(self.conn, &failure)?;
        self.leave(&mut head)?;
        self.finish(&mut head, JobState::Revoked)?;
        self.save(&mut head)?;
        Ok(Some(place))
    }

    /// A job ends: it holds its key no more, or until the time that is answered.
    pub(crate) fn release_key(&mut self, head: &mut Head) -> Result<UnixMs, Fault> {
        match self.held_by(head)? {
            Some((key, 0)) => {
                self.drop_key(head, &key)?;
                Ok(0)
            }
            held => Ok(held.map_or(0, |(_, until)| until)),
        }
    }

    /// The key that a job holds, and until when; 0: until it ends.
    pub(crate) fn held_by(&self, head: &mut Head) -> Result<Option<(String, UnixMs)>, Fault> {
        if head.has & UNIQUE == 0 {
            return Ok(None);
        }
        let unique = head.broker_options(self.conn)?.and_then(|broker_options| broker_options.unique.as_ref());
        let Some(key) = unique.map(|unique| unique.key.clone()) else { return Ok(None) };
        let holder = self.holder(self.scheduler.tenant(head.queue_id), &key)?;
        Ok(holder.filter(|holder| holder.id == head.id).map(|holder| (key, holder.until)))
    }

    pub(crate) fn drop_key(&self, head: &Head, key: &str) -> Result<(), Fault> {
        let sql = "DELETE FROM unique_key WHERE tenant = ? AND key = ?";
        run(self.conn, sql, &[self.scheduler.tenant(head.queue_id), &key])
    }

    /// Forgets unique keys whose time is over; whether there may be more.
    pub(crate) fn sweep_unique(&self) -> Result<bool, Fault> {
        Ok(changed(self.conn, SWEEP_UNIQUE, &[&self.now, &UNIQUE_SWEEP])? == u64::from(UNIQUE_SWEEP))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_look_at_keys_costs_more_because_there_are_more() {
        for sql in [HOLDER, SWEEP_UNIQUE] {
            crate::tests::assert_costs_what_it_finds(sql);
        }
    }
}
