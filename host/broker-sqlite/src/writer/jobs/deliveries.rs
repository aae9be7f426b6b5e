//! Claim, renew, settle.

use rusqlite::Row;
use umbel_broker::{
    Claim, DeliveredNode, Delivery, Input, LeaseState, LogLine, Renewal, Settle, Settled, UsageSum,
    rules::{
        join, lease,
        settle::{Next, could_have_followed, failure, may_grow, next},
        storage, usage,
    },
    scheduler::ClaimRound,
};
use umbel_model::{
    Failure, JobState, Progress, Resolution, Token,
    canvas::{When, node_of},
};

use crate::writer::{
    jobs::head::Head,
    jobs::head::{self},
    limits::ready_jobs::ReadyJobs,
    step::Step,
};
use crate::{
    error::Fault,
    rows::{get, one, update},
};

const NODE: &str =
    "SELECT template, gate, iif(takes, source, NULL), error_callback FROM node WHERE workflow = ? AND number = ?";
const INPUT: &str = "SELECT state, child IS NOT NULL, outcome.result FROM node CROSS JOIN job ON job.rid = node.rid
    LEFT JOIN outcome ON outcome.rid = job.rid WHERE node.workflow = ? AND node.number = ?";

const FAILURE: &str = "SELECT failure FROM outcome WHERE rid = ?";

impl Step<'_> {
    pub(crate) fn claim(&mut self, claim: &Claim) -> Result<Vec<Delivery>, Fault> {
        self.advance()?;
        self.hand_out(claim)
    }

    /// Ends deliveries, does what follows from that, and hands out more.
    pub(crate) fn settle(
        &mut self,
        settles: &[Settle],
        then: Option<&Claim>,
    ) -> Result<(Vec<Settled>, Vec<Delivery>), Fault> {
        let settled = settles.iter().map(|settle| self.settle_one(settle)).collect::<Result<_, _>>()?;
        self.advance()?;
        let deliveries = then.map(|claim| self.hand_out(claim)).transpose()?;
        Ok((settled, deliveries.unwrap_or_default()))
    }

    fn hand_out(&mut self, claim: &Claim) -> Result<Vec<Delivery>, Fault> {
        let (mut round, mut deliveries) = (ClaimRound::new(claim), Vec::new());
        let mut store =
            ReadyJobs { conn: self.conn, now: self.now, queues: self.scheduler.queue_count(), looked: None };
        while let Some(expired) = round.take(self.scheduler, &mut store)? {
            let Some((mut head, text)) = store.looked.take() else { break };
            if expired {
                head.in_sub_queue = false;
                self.finish(&mut head, JobState::Expired)?;
            } else {
                deliveries.push(self.deliver(&mut head, text, claim, deliveries.len())?);
            }
            self.save(&mut head)?;
        }
        // One that expired may have been the last of its workflow.
        self.finish_workflows()?;
        self.workflows.work_items.put_off();
        Ok(deliveries)
    }

    /// `text` is its spec; of a node, its arguments.
    fn deliver(&mut self, head: &mut Head, text: String, claim: &Claim, index: usize) -> Result<Delivery, Fault> {
        let token = Token::new(format!("{}-{index}", claim.token_seed))
            .map_err(|error| Fault::stored("token seed of a claim", error))?;
        head.state = JobState::Running;
        head.deliveries += 1;
        head.fence = lease::next_fence(self.now, head.fence);
        head.started_at = Some(self.now);
        head.worker = Some(claim.worker.clone());
        head.at = Some(self.now.saturating_add(claim.lease_ms));
        head.token = Some(token.as_str().to_owned());
        let (spec, node) = match head.workflow {
            None => (text, None),
            Some(workflow) => self.delivered(workflow, head, text)?,
        };
        self.record_event(head)?;
        Ok(Delivery {
            tenant: self.scheduler.tenant(head.queue_id).clone(),
            id: head.id,
            queue: self.scheduler.queue(head.queue_id).clone(),
            token,
            fence: head.fence,
            spec,
            retries: head.retries,
            delivery: head.deliveries,
            node,
        })
    }

    /// The spec of a node's template, and what only a node's delivery has.
    fn delivered(
        &mut self,
        workflow: i64,
        head: &Head,
        arguments: String,
    ) -> Result<(String, Option<Box<DeliveredNode>>), Fault> {
        let (id, number) = node_of(head.id);
        let decode = |row: &Row<'_>| Ok((get(row, 0)?, get(row, 1)?, get(row, 2)?, get(row, 3)?));
        let found = one(self.conn, NODE, &[&workflow, &number], decode)?;
        let (template, group, source, when) =
            found.ok_or_else(|| Fault::stored("job of a workflow", "its node is missing"))?;
        let input = match (source, when) {
            (None, _) => Input::Nothing,
            (Some(source), When::Failure) => Input::Error(source),
            (Some(source), When::Success | When::Link) => self.input(workflow, source)?,
        };
        let spec = self.workflows.template(self.conn, self.scheduler, workflow, template)?.of.spec.clone();
        let depth = self.workflows.flow(self.conn, workflow)?.depth;
        let node = DeliveredNode { workflow: id, node: number, group, depth, arguments, input };
        Ok((spec, Some(Box::new(node))))
    }

    fn input(&self, workflow: i64, source: u32) -> Result<Input, Fault> {
        let input = one(self.conn, INPUT, &[&workflow, &source], |row| {
            let result = row.get_ref(2)?.as_str_or_null().map_err(|error| Fault::stored("result", error))?;
            Ok(join::input(source, get(row, 0)?, get(row, 1)?, result.unwrap_or("null")))
        })?;
        Ok(input.unwrap_or(Input::Result(source)))
    }

    pub(crate) fn renew(&mut self, lease_ms: u64, renewals: &[Renewal]) -> Result<Vec<LeaseState>, Fault> {
        renewals.iter().map(|renewal| self.renew_one(lease_ms, renewal)).collect()
    }

    fn renew_one(&mut self, lease_ms: u64, renewal: &Renewal) -> Result<LeaseState, Fault> {
        let Some(mut head) = head::by_id(self.conn, self.scheduler, &renewal.tenant, renewal.id)? else {
            return Ok(LeaseState::Lost);
        };
        if !head.held_by(&renewal.token) {
            return Ok(LeaseState::Lost);
        }
        self.hear(&mut head, renewal.progress.as_ref(), &renewal.logs)?;
        let at = self.now.saturating_add(lease_ms);
        let Head { rid, log_lines, bytes, log_bytes, .. } = head;
        update!(self.conn, "job" { at: at, log_lines: log_lines, bytes: bytes, log_bytes: log_bytes } "rid = ?", rid)?;
        self.count_bytes(&mut head);
        Ok(lease::state(head.cancel_requested, head.let_end))
    }

    fn settle_one(&mut self, settle: &Settle) -> Result<Settled, Fault> {
        let Some(mut head) = head::by_id(self.conn, self.scheduler, &settle.tenant, settle.id)? else {
            return Ok(Settled::Lost);
        };
        if !head.held_by(&settle.token) {
            let repeated = head.has_token(&settle.token)
                && (could_have_followed(&settle.resolution, head.state, head.child)
                    || self.was_refused(&head, &settle.resolution)?);
            return Ok(if repeated { Settled::AlreadyDone } else { Settled::Lost });
        }
        let used = || self.stored.of(&settle.tenant).jobs;
        let limit = self.storage_limits(&settle.tenant).jobs;
        let refused = storage::refused_result(limit, used, &settle.resolution);
        let refused = refused.map(|failure| Settle { resolution: Resolution::Fail { failure }, ..settle.clone() });
        let settle = refused.as_ref().unwrap_or(settle);
        if may_grow(&settle.resolution, head.cancel_requested) {
            if let Some(refusal) = self.refuses_blobs(settle)? {
                return Ok(refusal);
            }
            if !self.has_room(&head, settle)? {
                return Ok(Settled::NoCapacity);
            }
            self.store_blobs(&mut head, settle)?;
            if let Some(growth) = &settle.growth {
                self.grow(&head, growth)?;
            }
        }
        self.hear(&mut head, settle.progress.as_ref(), &settle.logs)?;
        if let Some(record) = &settle.record {
            head.remember(self.conn, record)?;
            let next = next(&settle.resolution, head.cancel_requested);
            self.add_usage(&head, &usage::of_attempt(record, next))?;
        }
        self.leave(&mut head)?;
        self.resolve(&mut head, &settle.resolution)?;
        self.save(&mut head)?;
        Ok(Settled::Recorded)
    }

    /// Keeps what a worker says. `save` must follow.
    fn hear(&mut self, head: &mut Head, progress: Option<&Progress>, lines: &[LogLine]) -> Result<(), Fault> {
        let tenant = self.scheduler.tenant(head.queue_id);
        let (limit, used) = (self.storage_limits(tenant).jobs, self.stored.of(tenant).jobs);
        let room = if limit == 0 { u64::MAX } else { limit.saturating_sub(used) };
        head.hear(self.conn, progress, (self.limits.max_log_lines, room, lines))
    }

    /// Whether a job failed because its result did not fit.
    fn was_refused(&self, head: &Head, resolution: &Resolution) -> Result<bool, Fault> {
        if head.state != JobState::Failed || !matches!(resolution, Resolution::Succeed { .. }) {
            return Ok(false);
        }
        let failure: Option<Option<Failure>> = one(self.conn, FAILURE, &[&head.rid], |row| get(row, 0))?;
        Ok(storage::was_refused(resolution, head.state, failure.flatten().as_ref()))
    }

    /// Adds to the sums of a job's task in this hour.
    pub(crate) fn add_usage(&mut self, head: &Head, more: &UsageSum) -> Result<(), Fault> {
        let (tenant, task) = (self.scheduler.tenant(head.queue_id), head.task(self.conn)?);
        self.usage.add(tenant, usage::hour_of(self.now), task, more);
        Ok(())
    }

    fn resolve(&mut self, head: &mut Head, resolution: &Resolution) -> Result<(), Fault> {
        let next = next(resolution, head.cancel_requested);
        if let Some(failure) = failure(resolution, next) {
            head.put_failure(self.conn, failure)?;
        }
        if let Resolution::Succeed { result } = resolution {
            head.put_result(self.conn, result.as_ref().map(|result| result.get()))?;
        }
        match next {
            Next::End(state) => self.finish(head, state),
            Next::Delay(state, delay_ms) => {
                head.retries += u32::from(state == JobState::Retrying);
                head.deliveries = 0;
                self.delay(head, state, self.now.saturating_add(delay_ms))
            }
            Next::Release => {
                head.deliveries = head.deliveries.saturating_sub(1);
                self.enqueue_at_its_place(head)
            }
            Next::Wait(workflow) => {
                head.state = JobState::Waiting;
                // Nothing is to be done with it until its child ends.
                head.at = None;
                head.child = Some(workflow);
                self.record_event(head)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_costs_no_more_because_more_is_stored() {
        for sql in [NODE, INPUT] {
            crate::tests::assert_costs_what_it_finds(sql);
        }
    }
}
