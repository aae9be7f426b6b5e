//! Submissions.

use rusqlite::{Connection, OptionalExtension, params};
use umbel_broker::{Idempotency, NewJob, Start, Submitted};
use umbel_model::{JobId, TenantId, UnixMs};

use super::{head::Head, inserts::Fixed, step::Step, stored_scheduler::known};
use crate::{error::Fault, rows::int, schema};

/// Whether a file has reached its limit and so many pages more.
pub(super) fn fills(conn: &Connection, max_pages: Option<u64>, more: u64) -> Result<bool, Fault> {
    let Some(max) = max_pages else { return Ok(false) };
    let number = |sql| conn.prepare_cached(sql)?.query_row([], |row| row.get::<_, u32>(0));
    let (all, free) = (number("PRAGMA page_count")?, number("PRAGMA freelist_count")?);
    Ok(u64::from(all.saturating_sub(free)) >= max.saturating_add(more))
}

impl Step<'_> {
    /// Refuses what would fill the file: the rest of it is for finishing what was accepted.
    pub(crate) fn check_room(&self) -> Result<(), Fault> {
        if self.fills(0)? { Err(Fault::NoRoom) } else { Ok(()) }
    }

    /// Whether half of the file's reserve is used.
    pub(super) fn is_nearly_full(&self) -> Result<bool, Fault> {
        self.fills(self.max_pages.map_or(0, schema::reserve) / 2)
    }

    /// Whether the file has reached its limit and so many pages more.
    fn fills(&self, more: u64) -> Result<bool, Fault> {
        fills(self.conn, self.max_pages, more)
    }

    pub(crate) fn submit(&mut self, new: &NewJob) -> Result<Submitted, Fault> {
        match self.submit_plain(new)? {
            Some(answer) => Ok(answer),
            None => self.submit_any(new),
        }
    }

    /// Most jobs need no look at anything before they are stored: that tells, too, whether their id is known. None:
    /// this one does.
    fn submit_plain(&mut self, new: &NewJob) -> Result<Option<Submitted>, Fault> {
        let is_plain = new.broker_options.is_none() && new.idempotency.is_none() && new.redrive_of.is_none();
        let Some(line) =
            self.scheduler.find(&new.tenant, &new.queue).filter(|_| is_plain && self.no_room(new).is_none())
        else {
            return Ok(None);
        };
        let mut head = Head::new(self.now, line, new);
        if self.is_followed(&new.tenant) {
            head.task = Some(new.task.clone());
        }
        self.place(&mut head, self.due(new.start), None);
        let fixed = Fixed { tenant: &new.tenant, task: &new.task, text: &new.spec };
        if !head.insert_plain(self.conn, self.now, &fixed)? {
            return Ok(Some(Submitted::Existing(new.id)));
        }
        self.arrived(&mut head)?;
        self.advance()?;
        Ok(Some(Submitted::Created))
    }

    fn submit_any(&mut self, new: &NewJob) -> Result<Submitted, Fault> {
        if let Some(answer) = self.known_submission(new)? {
            return Ok(answer);
        }
        if let Some(holder) = self.first_of_its_like(new)? {
            if let Some(idempotency) = &new.idempotency {
                self.keep_idempotency(&new.tenant, holder, idempotency)?;
            }
            return Ok(Submitted::Duplicate(holder));
        }
        if let Some(old) = new.redrive_of
            && !self.is_dead(new, old)?
        {
            return Ok(Submitted::NotDead);
        }
        if let Some(refusal) = self.no_room(new) {
            return Ok(refusal);
        }
        if let Some(old) = new.redrive_of {
            self.redrive(new, old)?;
        }
        if let Some(idempotency) = &new.idempotency {
            self.keep_idempotency(&new.tenant, new.id, idempotency)?;
        }
        let line = self.queue_id(&new.tenant, &new.queue)?;
        let (start, place) = self.take_place(new)?;
        let mut head = Head::new(self.now, line, new);
        if self.is_followed(&new.tenant) {
            head.task.get_or_insert_with(|| new.task.clone());
        }
        self.place(&mut head, self.due(start), place);
        head.insert(self.conn, self.now, &Fixed { tenant: &new.tenant, task: &new.task, text: &new.spec })?;
        self.arrived(&mut head)?;
        self.advance()?;
        Ok(Submitted::Created)
    }

    /// Queues a job now or when its time comes.
    pub(super) fn begin_waiting(&mut self, head: &mut Head, start: Start) -> Result<(), Fault> {
        self.place(head, self.due(start), None);
        self.arrived(head)
    }

    fn due(&self, start: Start) -> UnixMs {
        match start {
            Start::Now => self.now,
            Start::After(ms) => self.now.saturating_add(ms),
            Start::At(at) => at,
        }
    }

    fn known_submission(&self, new: &NewJob) -> Result<Option<Submitted>, Fault> {
        let sql = "SELECT 1 FROM job INDEXED BY job_id WHERE tenant = ? AND id = ?";
        if self.conn.prepare_cached(sql)?.exists(params![new.tenant.as_str(), new.id.to_bytes()])? {
            return Ok(Some(Submitted::Existing(new.id)));
        }
        let Some(idempotency) = &new.idempotency else { return Ok(None) };
        let known = self.known_key(&new.tenant, idempotency)?;
        Ok(known.map(|(id, same)| if same { Submitted::Existing(id) } else { Submitted::Conflict(id) }))
    }

    /// What was submitted with this key, and whether it was the same.
    pub(super) fn known_key(
        &self,
        tenant: &TenantId,
        idempotency: &Idempotency,
    ) -> Result<Option<(JobId, bool)>, Fault> {
        let sql = "SELECT id, body = ? FROM idempotency WHERE tenant = ? AND key = ? AND expires_at > ?";
        let params = params![idempotency.body, tenant.as_str(), idempotency.key, int(self.now)];
        let found: Option<([u8; 16], bool)> =
            self.conn.prepare_cached(sql)?.query_row(params, |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        Ok(found.map(|(id, same)| (JobId::from_bytes(id), same)))
    }

    fn is_dead(&self, new: &NewJob, old: JobId) -> Result<bool, Fault> {
        let sql = "SELECT 1 FROM job INDEXED BY job_id WHERE tenant = ? AND id = ? AND dead = 1";
        Ok(self.conn.prepare_cached(sql)?.exists(params![new.tenant.as_str(), old.to_bytes()])?)
    }

    /// Takes the job that is repeated out of the dead set.
    fn redrive(&mut self, new: &NewJob, old: JobId) -> Result<(), Fault> {
        let sql = "UPDATE job SET dead = 0 WHERE tenant = ? AND id = ? RETURNING line";
        let mut statement = self.conn.prepare_cached(sql)?;
        let row = params![new.tenant.as_str(), old.to_bytes()];
        let line = statement.query_row(row, |row| row.get::<_, i64>(0))?.unsigned_abs();
        let line = known(self.scheduler.len(), line)?;
        self.scheduler.change(line, |counts| counts.dead = counts.dead.saturating_sub(1));
        Ok(())
    }

    fn no_room(&self, new: &NewJob) -> Option<Submitted> {
        match self.scheduler.find(&new.tenant, &new.queue) {
            None => {
                (self.scheduler.queues_of(&new.tenant) >= self.limits.max_queues).then_some(Submitted::TooManyQueues)
            }
            Some(line) => {
                let counts = self.scheduler.counts(line);
                (counts.ready + counts.delayed >= self.limits.max_backlog).then_some(Submitted::QueueFull)
            }
        }
    }

    pub(super) fn keep_idempotency(
        &self,
        tenant: &TenantId,
        id: JobId,
        idempotency: &Idempotency,
    ) -> Result<(), Fault> {
        let sql = "INSERT OR REPLACE INTO idempotency (tenant, key, id, body, expires_at) VALUES (?, ?, ?, ?, ?)";
        let expires_at = int(self.now.saturating_add(idempotency.ttl_ms));
        let row = params![tenant.as_str(), idempotency.key, id.to_bytes(), idempotency.body, expires_at];
        self.conn.prepare_cached(sql)?.execute(row)?;
        Ok(())
    }
}
