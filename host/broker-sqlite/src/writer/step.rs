//! What a job's state change does to its row, its line and the news: the rules that every operation is made of.
//!
//! They change a `Head` in memory; the operation writes it once when it is done with it.

use rusqlite::Connection;
use umbel_broker::{
    Limits,
    scheduler::{Scheduler, SubQueueName},
};
use umbel_model::{JobState, UnixMs};

use super::{broker_options::LIMITS, flows::Flows, followed::Followed, head::Head};
use crate::{error::Fault, news::News};

/// How much of the work list an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FollowUp {
    All,
    /// What it added itself: the rest found no room.
    Own,
    Nothing,
}

/// One operation under way, inside the transaction of its group.
pub(crate) struct Step<'a> {
    pub(crate) conn: &'a Connection,
    pub(super) scheduler: &'a mut Scheduler<i64>,
    /// The scheduler was read again: after a rollback it must be once more.
    pub(super) scheduler_reloaded: &'a mut bool,
    /// The counts of tenant queues were written in the middle of the group.
    pub(super) scheduler_written: &'a mut bool,
    pub(super) flows: &'a mut Flows,
    pub(super) followed: &'a mut Followed,
    pub(super) limits: &'a Limits,
    pub(super) max_pages: Option<u64>,
    pub(super) news: &'a mut News,
    pub(super) follow_up: FollowUp,
    /// The same for all that the operation does.
    pub(super) now: UnixMs,
}

impl Head {
    fn be_queued(&mut self) {
        self.state = JobState::Queued;
        self.due_at = None;
        self.at = self.expires_at;
        self.in_sub_queue = self.has & LIMITS > 0;
    }

    fn be_delayed(&mut self, state: JobState, due: UnixMs) {
        self.state = state;
        self.due_at = Some(due);
        self.at = Some(self.expires_at.map_or(due, |expires| expires.min(due)));
    }
}

impl Step<'_> {
    /// Gives a job its state, and its place at the end of its line or, if it had one, there. `arrived` must follow.
    pub(super) fn place(&mut self, head: &mut Head, due: UnixMs, score: Option<u64>) {
        if due > self.now {
            head.be_delayed(JobState::Scheduled, due);
        } else {
            head.score = score.unwrap_or_else(|| self.scheduler.next_score(head.priority));
            head.be_queued();
        }
    }

    /// To the end of its tenant queue.
    pub(super) fn enqueue(&mut self, head: &mut Head) -> Result<(), Fault> {
        self.place(head, self.now, None);
        self.arrived(head)
    }

    /// To where it was in its tenant queue.
    pub(super) fn enqueue_at_its_place(&mut self, head: &mut Head) -> Result<(), Fault> {
        head.be_queued();
        self.arrived(head)
    }

    pub(super) fn delay(&mut self, head: &mut Head, state: JobState, due: UnixMs) -> Result<(), Fault> {
        head.be_delayed(state, due);
        self.arrived(head)
    }

    /// A job that is stored is queued or delayed.
    pub(super) fn arrived(&mut self, head: &mut Head) -> Result<(), Fault> {
        if head.state == JobState::Queued {
            let sub_queue = self.sub_queue_of(head)?;
            self.scheduler.insert(head.line, sub_queue.as_ref(), (head.score, head.rid));
        } else {
            self.scheduler.change(head.line, |counts| counts.delayed += 1);
        }
        self.tell_state(head)
    }

    /// The sub-queue in which a job is queued, or counts as running.
    fn sub_queue_of(&self, head: &mut Head) -> Result<Option<SubQueueName>, Fault> {
        if !head.in_sub_queue {
            return Ok(None);
        }
        let task = head.task(self.conn)?;
        let limits = head.broker_options(self.conn)?.and_then(|broker_options| broker_options.limits.as_ref());
        Ok(Some(SubQueueName { task, key: limits.and_then(|limits| limits.key.clone()).unwrap_or_default() }))
    }

    /// Out of whatever it waits in.
    pub(super) fn leave(&mut self, head: &mut Head) -> Result<(), Fault> {
        let (id, sub_queue) = (head.line, self.sub_queue_of(head)?);
        head.in_sub_queue = false;
        match head.state {
            JobState::Queued => self.scheduler.remove(id, sub_queue.as_ref(), (head.score, head.rid)),
            JobState::Scheduled | JobState::Retrying => {
                self.scheduler.change(id, |counts| counts.delayed = counts.delayed.saturating_sub(1));
            }
            JobState::Running => self.scheduler.release_capacity(id, sub_queue.as_ref()),
            _ => {}
        }
        Ok(())
    }

    pub(super) fn finish(&mut self, head: &mut Head, state: JobState) -> Result<(), Fault> {
        self.end(head, state, state == JobState::Failed)
    }

    /// Ends a job; `dead`: into the dead set, if it may get there. What waits for it is told; `save` must follow.
    pub(super) fn end(&mut self, head: &mut Head, state: JobState, dead: bool) -> Result<(), Fault> {
        let dead = dead && (head.dead_ttl_ms > 0 || head.workflow.is_some());
        let keep_ms = if dead { head.result_ttl_ms.max(head.dead_ttl_ms) } else { head.result_ttl_ms };
        let until = self.release_key(head)?;
        head.state = state;
        head.finished_at = Some(self.now);
        head.due_at = None;
        // It makes way for the time of the end: the row of a node that waited grows no longer.
        head.score = 0;
        // A node is deleted with its workflow.
        head.at = head.workflow.is_none().then(|| self.now.saturating_add(keep_ms).max(until));
        if dead {
            self.bury(head)?;
        }
        self.news.ended(head.id);
        self.tell_state(head)?;
        match head.workflow {
            Some(workflow) => self.ended_node(workflow, head),
            None => Ok(()),
        }
    }

    /// Writes a job, and counts its state in its workflow.
    pub(super) fn save(&mut self, head: &mut Head) -> Result<(), Fault> {
        head.save(self.conn)?;
        if let Some(workflow) = head.workflow
            && head.state != head.was
        {
            self.flows.count(self.conn, workflow, Some(head.was), Some(head.state))?;
        }
        head.was = head.state;
        Ok(())
    }

    /// For reads in the middle of a group: what memory knows is written.
    pub(crate) fn write_all(&mut self) -> Result<(), Fault> {
        super::stored_scheduler::flush(self.conn, self.scheduler, true)?;
        *self.scheduler_written = true;
        self.flows.write(self.conn)?;
        self.write_followed()
    }
}
