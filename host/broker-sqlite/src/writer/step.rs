//! What a job's state change does to its row, its line and the news: the rules that every operation is made of.
//!
//! They change a `Head` in memory; the operation writes it once when it is done with it.

use rusqlite::Connection;
use umbel_broker::Limits;
use umbel_model::{JobState, QueueName, TenantId, UnixMs};

use super::{
    broker_options::LIMITS,
    controls::Controls,
    flows::Flows,
    followed::Followed,
    head::Head,
    lanes::Change,
    lines::{LineId, Lines},
};
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
    pub(super) lines: &'a mut Lines,
    pub(super) controls: &'a mut Controls,
    pub(super) flows: &'a mut Flows,
    pub(super) followed: &'a mut Followed,
    pub(super) limits: &'a Limits,
    pub(super) max_pages: Option<u64>,
    pub(super) news: &'a mut News,
    pub(super) follow_up: FollowUp,
    /// The same for all that the operation does.
    pub(super) now: UnixMs,
}

/// Orders ready jobs: priority 9 first, then the order of arrival.
pub(super) fn ready_score(priority: u8, seq: u64) -> u64 {
    (u64::from(9 - priority.min(9)) << 48) | seq
}

impl Head {
    fn be_queued(&mut self) {
        self.state = JobState::Queued;
        self.due_at = None;
        self.at = self.expires_at;
    }

    fn be_delayed(&mut self, state: JobState, due: UnixMs) {
        self.state = state;
        self.due_at = Some(due);
        self.at = Some(self.expires_at.map_or(due, |expires| expires.min(due)));
    }
}

impl Step<'_> {
    /// Gives a plain job that is not yet stored its state, and its place at the end of its line.
    pub(super) fn place_plain(&mut self, head: &mut Head, due: UnixMs) {
        if due > self.now {
            head.be_delayed(JobState::Scheduled, due);
        } else {
            head.score = ready_score(head.priority, self.lines.next_seq());
            head.be_queued();
        }
    }

    /// The line of a tenant's queue, made if there is none.
    pub(super) fn line_of(&mut self, tenant: &TenantId, queue: &QueueName) -> Result<LineId, Fault> {
        if let Some(line) = self.lines.find(tenant, queue) {
            return Ok(line);
        }
        let paused = self.controls.tenant(tenant).is_some_and(|control| control.paused);
        self.lines.create(self.conn, tenant, queue, paused)
    }

    /// To the end of its line.
    pub(super) fn enqueue(&mut self, head: &mut Head) -> Result<(), Fault> {
        head.score = ready_score(head.priority, self.lines.next_seq());
        self.enqueue_at_its_place(head)
    }

    /// To where it was in its line.
    pub(super) fn enqueue_at_its_place(&mut self, head: &mut Head) -> Result<(), Fault> {
        head.be_queued();
        let laned = if head.has & LIMITS > 0 { Some(self.enter_lane(head)?) } else { None };
        self.lines.change(head.line, |counts| {
            counts.ready += 1;
            if let Some(change) = laned {
                counts.laned += 1;
                change.apply(counts);
            }
        });
        self.news.ready_in(self.lines.queue(head.line));
        self.tell_state(head)
    }

    pub(super) fn delay(&mut self, head: &mut Head, state: JobState, due: UnixMs) -> Result<(), Fault> {
        head.be_delayed(state, due);
        self.lines.change(head.line, |counts| counts.delayed += 1);
        self.tell_state(head)
    }

    /// A plain job was stored, queued or delayed.
    pub(super) fn arrived(&mut self, head: &Head) -> Result<(), Fault> {
        if head.state == JobState::Queued {
            self.lines.change(head.line, |counts| counts.ready += 1);
            self.news.ready_in(self.lines.queue(head.line));
        } else {
            self.lines.change(head.line, |counts| counts.delayed += 1);
        }
        self.tell_state(head)
    }

    /// Out of whatever it waits in.
    pub(super) fn leave(&mut self, head: &mut Head) -> Result<(), Fault> {
        let (line, lane) = (head.line, head.lane.take());
        match head.state {
            JobState::Queued => {
                let change = lane.map(|lane| self.leave_lane(head, lane)).transpose()?;
                self.lines.change(line, |counts| {
                    counts.ready = counts.ready.saturating_sub(1);
                    if let Some(change) = change {
                        counts.laned = counts.laned.saturating_sub(1);
                        change.apply(counts);
                    }
                });
            }
            JobState::Scheduled | JobState::Retrying => {
                self.lines.change(line, |counts| counts.delayed = counts.delayed.saturating_sub(1));
            }
            JobState::Running => {
                self.lines.change(line, |counts| counts.running = counts.running.saturating_sub(1));
                self.make_place(line, lane)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn leave_lane(&mut self, head: &Head, lane: i64) -> Result<Change, Fault> {
        let bucket = self.bucket(lane)?;
        let change = self.take_from_lane(head.line, &bucket, head.rid)?;
        self.leave_bucket(&bucket)?;
        Ok(change)
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
        self.lines.write(self.conn)?;
        self.flows.write(self.conn)?;
        self.write_followed()
    }
}
