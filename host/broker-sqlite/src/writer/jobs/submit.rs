//! Submissions.

use rusqlite::{OptionalExtension, params};
use umbel_broker::{
    Idempotency, NewJob, Start, Submitted,
    rules::{room, uniqueness},
};
use umbel_model::{JobId, TenantId, UnixMs};

use crate::writer::{jobs::head::Head, jobs::inserts::Fixed, step::Step};
use crate::{
    error::Fault,
    rows::{int, queue_id},
    schema,
};

impl Step<'_> {
    /// Refuses what would fill the file: the rest of it is for finishing what was accepted.
    pub(crate) fn check_room(&self) -> Result<(), Fault> {
        if self.fills(0)? { Err(Fault::NoRoom) } else { Ok(()) }
    }

    /// Whether half of the file's reserve is used.
    pub(in crate::writer) fn is_nearly_full(&self) -> Result<bool, Fault> {
        self.fills(self.max_pages.map_or(0, schema::reserve) / 2)
    }

    /// Whether the file has reached its limit and so many pages more.
    fn fills(&self, more: u64) -> Result<bool, Fault> {
        schema::fills(self.conn, self.max_pages, more)
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
        if let Some(holder) = self.find_duplicate(new)? {
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
        let (start, place) = self.supersede(new)?;
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
    pub(in crate::writer) fn begin_waiting(&mut self, head: &mut Head, start: Start) -> Result<(), Fault> {
        self.place(head, self.due(start), None);
        self.arrived(head)
    }

    fn due(&self, start: Start) -> UnixMs {
        uniqueness::due(start, self.now)
    }

    fn known_submission(&self, new: &NewJob) -> Result<Option<Submitted>, Fault> {
        let sql = "SELECT 1 FROM job INDEXED BY job_id WHERE tenant = ? AND id = ?";
        if self.conn.prepare_cached(sql)?.exists(params![new.tenant.as_str(), new.id.to_bytes()])? {
            return Ok(Some(Submitted::Existing(new.id)));
        }
        let Some(idempotency) = &new.idempotency else { return Ok(None) };
        let known = self.known_key(&new.tenant, idempotency)?;
        Ok(known.map(|(id, same)| uniqueness::repeated_job(id, same)))
    }

    /// The job or workflow that was submitted with this key, and whether its body was the same.
    pub(in crate::writer) fn known_key(
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
        let line = queue_id(self.scheduler.len(), line)?;
        self.scheduler.change(line, |counts| counts.dead = counts.dead.saturating_sub(1));
        Ok(())
    }

    fn no_room(&self, new: &NewJob) -> Option<Submitted> {
        let counts = self.scheduler.find(&new.tenant, &new.queue).map(|id| self.scheduler.counts(id));
        let queues = self.scheduler.queues_of(&new.tenant);
        room::for_job(self.limits, queues, counts.map(|of| of.ready + of.delayed))
    }

    pub(in crate::writer) fn keep_idempotency(
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
