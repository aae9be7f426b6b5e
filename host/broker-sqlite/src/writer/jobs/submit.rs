//! Submissions.

use umbel_broker::{
    Idempotency, NewJob, Start, Submitted,
    rules::{capacity, storage},
};
use umbel_model::{JobId, TenantId};

use crate::writer::{jobs::head::Head, jobs::inserts::Fixed, jobs::labels, step::Step};
use crate::{
    error::Fault,
    rows::{Stored, first, get, insert, known_queue, one},
    schema,
};

impl Step<'_> {
    /// Refuses what would fill the file: the rest of it is for finishing what was accepted.
    pub(crate) fn check_room(&self) -> Result<(), Fault> {
        if self.fills(0)? { Err(Fault::NoRoom) } else { Ok(()) }
    }

    /// Whether half of the file's reserve is used.
    pub(crate) fn is_nearly_full(&self) -> Result<bool, Fault> {
        self.fills(self.max_pages.map_or(0, schema::reserve) / 2)
    }

    /// Whether the file has reached its limit and so many pages more.
    fn fills(&self, more: u64) -> Result<bool, Fault> {
        schema::fills(self.conn, self.max_pages, more)
    }

    pub(crate) fn submit(&mut self, jobs: &[NewJob]) -> Result<Vec<Submitted>, Fault> {
        self.check_room()?;
        jobs.iter().map(|new| self.submit_one(new)).collect()
    }

    fn submit_one(&mut self, new: &NewJob) -> Result<Submitted, Fault> {
        match self.submit_plain(new)? {
            Some(answer) => Ok(answer),
            None => self.submit_any(new),
        }
    }

    /// Most jobs need no look at anything before they are stored: that tells, too, whether their id is known. None:
    /// this one does.
    fn submit_plain(&mut self, new: &NewJob) -> Result<Option<Submitted>, Fault> {
        let is_plain = new.broker_options.is_none()
            && new.idempotency.is_none()
            && new.redrive_of.is_none()
            && new.labels.is_empty()
            && new.blobs.is_empty();
        let has_room = || self.no_room(new).is_none() && self.fits(&new.tenant, storage::spec(&new.spec));
        let Some(line) = self.scheduler.find(&new.tenant, &new.queue).filter(|_| is_plain && has_room()) else {
            return Ok(None);
        };
        let mut head = Head::new(self.now, line, new);
        if self.is_followed(&new.tenant) {
            head.task = Some(new.task.clone());
        }
        self.place(&mut head, new.start.due(self.now), None);
        let fixed = Fixed { tenant: &new.tenant, task: &new.task, text: &new.spec };
        if !head.insert_plain(self.conn, self.now, &fixed)? {
            return Ok(Some(Submitted::Existing(new.id)));
        }
        self.count_bytes(&mut head);
        self.arrived(&mut head)?;
        self.advance()?;
        Ok(Some(Submitted::Created))
    }

    fn submit_any(&mut self, new: &NewJob) -> Result<Submitted, Fault> {
        if let Some(answer) = self.known_submission(new)? {
            return Ok(answer);
        }
        if let Some(holder) = self.find_duplicate(new)? {
            self.keep_key(&new.tenant, holder, new.idempotency.as_ref())?;
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
        if !self.fits(&new.tenant, storage::spec(&new.spec)) {
            return Ok(Submitted::StorageFull);
        }
        if let Some(missing) = self.missing_blob(&new.tenant, &new.blobs)? {
            return Ok(Submitted::MissingBlob(missing));
        }
        if let Some(old) = new.redrive_of {
            self.redrive(new, old)?;
        }
        self.keep_key(&new.tenant, new.id, new.idempotency.as_ref())?;
        let line = self.queue_id(&new.tenant, &new.queue)?;
        let (start, place) = self.supersede(new)?;
        let mut head = Head::new(self.now, line, new);
        if self.is_followed(&new.tenant) {
            head.task.get_or_insert_with(|| new.task.clone());
        }
        self.place(&mut head, start.due(self.now), place);
        head.insert(self.conn, self.now, &Fixed { tenant: &new.tenant, task: &new.task, text: &new.spec })?;
        labels::insert(self.conn, head.rid, &new.tenant, new.id, &new.labels)?;
        self.refer(&new.tenant, head.rid, &new.blobs)?;
        self.count_bytes(&mut head);
        self.arrived(&mut head)?;
        self.advance()?;
        Ok(Submitted::Created)
    }

    /// Queues a job now or when its time comes.
    pub(crate) fn begin_waiting(&mut self, head: &mut Head, start: Start) -> Result<(), Fault> {
        self.place(head, start.due(self.now), None);
        self.arrived(head)
    }

    fn known_submission(&self, new: &NewJob) -> Result<Option<Submitted>, Fault> {
        let sql = "SELECT 1 FROM job INDEXED BY job_id WHERE tenant = ? AND id = ?";
        if one(self.conn, sql, &[&new.tenant, &new.id], |_| Ok(()))?.is_some() {
            return Ok(Some(Submitted::Existing(new.id)));
        }
        let known = self.known_key(&new.tenant, new.idempotency.as_ref())?;
        Ok(known.map(|(id, same)| if same { Submitted::Existing(id) } else { Submitted::Conflict(id) }))
    }

    /// The job or workflow that was submitted with this key, and whether its body was the same.
    pub(crate) fn known_key(
        &self,
        tenant: &TenantId,
        asked: Option<&Idempotency>,
    ) -> Result<Option<(JobId, bool)>, Fault> {
        let Some(asked) = asked else { return Ok(None) };
        let sql = "SELECT id, body = ? FROM idempotency WHERE tenant = ? AND key = ? AND expires_at > ?";
        let values: [&dyn Stored; 4] = [&asked.body, tenant, &asked.key, &self.now];
        one(self.conn, sql, &values, |row| Ok((get(row, 0)?, get(row, 1)?)))
    }

    fn is_dead(&self, new: &NewJob, old: JobId) -> Result<bool, Fault> {
        let sql = "SELECT 1 FROM job INDEXED BY job_id WHERE tenant = ? AND id = ? AND dead = 1";
        Ok(one(self.conn, sql, &[&new.tenant, &old], |_| Ok(()))?.is_some())
    }

    /// Takes the job that is repeated out of the dead set.
    fn redrive(&mut self, new: &NewJob, old: JobId) -> Result<(), Fault> {
        let sql = "UPDATE job SET dead = 0 WHERE tenant = ? AND id = ? RETURNING line - 1";
        if let Some(line) = one(self.conn, sql, &[&new.tenant, &old], first)? {
            let line = known_queue(self.scheduler.queue_count(), line)?;
            self.scheduler.change(line, |counts| counts.dead = counts.dead.saturating_sub(1));
        }
        Ok(())
    }

    fn no_room(&self, new: &NewJob) -> Option<Submitted> {
        capacity::for_job(self.limits, self.scheduler, &new.tenant, &new.queue)
    }

    pub(crate) fn keep_key(&self, tenant: &TenantId, id: JobId, asked: Option<&Idempotency>) -> Result<(), Fault> {
        let Some(Idempotency { key, body, ttl_ms }) = asked else { return Ok(()) };
        let expires_at = self.now.saturating_add(*ttl_ms);
        insert!(self.conn, "INSERT OR REPLACE INTO idempotency" {
            tenant: tenant, key: key, id: id, body: body, expires_at: expires_at
        })
    }
}
