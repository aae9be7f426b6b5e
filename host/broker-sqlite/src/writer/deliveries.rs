//! Claim, renew, settle.

use rusqlite::params;
use umbel_broker::{
    CLAIM_SCAN, Claim, DeliveredNode, Delivery, INLINE_INPUT_BYTES, Input, LeaseState, Renewal, Settle, Settled,
    scheduler::{ClaimRound, Picked},
};
use umbel_model::{
    JobState, Resolution, Token,
    canvas::{When, node_of},
};

use super::{
    head::{self, Head},
    step::Step,
    stored_scheduler::ReadyJobs,
};
use crate::{
    error::Fault,
    rows::{self, int},
};

const NODE: &str = "SELECT template, gate, source, takes, error_callback FROM node WHERE workflow = ? AND number = ?";
const INPUT: &str = "SELECT state, child IS NULL, outcome.result FROM node CROSS JOIN job ON job.rid = node.rid
    LEFT JOIN outcome ON outcome.rid = job.rid WHERE node.workflow = ? AND node.number = ?";

impl Step<'_> {
    pub(crate) fn claim(&mut self, claim: &Claim) -> Result<Vec<Delivery>, Fault> {
        self.advance()?;
        self.hand_out(claim)
    }

    /// Ends deliveries, does what follows from that, and hands out more.
    pub(crate) fn settle_all(
        &mut self,
        settles: &[Settle],
        then: Option<&Claim>,
    ) -> Result<(Vec<Settled>, Vec<Delivery>), Fault> {
        let settled = settles.iter().map(|settle| self.settle(settle)).collect::<Result<_, _>>()?;
        self.advance()?;
        let deliveries = then.map(|claim| self.hand_out(claim)).transpose()?;
        Ok((settled, deliveries.unwrap_or_default()))
    }

    fn hand_out(&mut self, claim: &Claim) -> Result<Vec<Delivery>, Fault> {
        let mut deliveries = Vec::new();
        let mut budget = claim.max.saturating_add(CLAIM_SCAN);
        let wants_more = |deliveries: &Vec<Delivery>| (deliveries.len() as u64) < u64::from(claim.max);
        for queue in &claim.queues {
            let mut round = ClaimRound::default();
            while wants_more(&deliveries) && budget > 0 {
                let Some(next) = round.next(self.scheduler, queue, &claim.worker) else { break };
                budget -= 1;
                let Ok(id) = next else { continue };
                let queues = self.scheduler.len();
                let mut store = ReadyJobs { conn: self.conn, now: self.now, queues, looked: None };
                let picked = self.scheduler.pick(self.now, id, &claim.worker, &mut store)?;
                round.looked(id, picked == Picked::Job);
                let Some((mut head, text)) = store.looked.filter(|_| picked == Picked::Job) else { continue };
                if head.expired(self.now) {
                    head.in_sub_queue = false;
                    self.finish(&mut head, JobState::Expired)?;
                } else {
                    deliveries.push(self.deliver(&mut head, text, claim, deliveries.len())?);
                }
                self.save(&mut head)?;
            }
            if budget == 0 && wants_more(&deliveries) && self.scheduler.is_open(queue) {
                self.news.ready_in(queue);
            }
        }
        self.flows.todo.put_off();
        // One that expired may have been the last of its workflow.
        self.finish_workflows()?;
        Ok(deliveries)
    }

    /// `text` is its spec; of a node, its arguments.
    fn deliver(&mut self, head: &mut Head, text: String, claim: &Claim, index: usize) -> Result<Delivery, Fault> {
        let token = Token::new(format!("{}-{index}", claim.token_seed))
            .map_err(|error| Fault::stored("token seed of a claim", error))?;
        head.state = JobState::Running;
        head.deliveries += 1;
        head.fence = self.now.saturating_mul(1_000).max(head.fence + 1);
        head.started_at = Some(self.now);
        head.worker = Some(claim.worker.as_str().to_owned());
        head.at = Some(self.now.saturating_add(claim.lease_ms));
        head.token = Some(token.as_str().to_owned());
        let (spec, node) = match head.workflow {
            None => (text, None),
            Some(workflow) => self.delivered(workflow, head, text)?,
        };
        self.tell_state(head)?;
        Ok(Delivery {
            tenant: self.scheduler.tenant(head.line).clone(),
            id: head.id,
            queue: self.scheduler.queue(head.line).clone(),
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
        let (template, group, source, when) = {
            let mut statement = self.conn.prepare_cached(NODE)?;
            let mut found = statement.query(params![workflow, number])?;
            let row = found.next()?.ok_or_else(|| Fault::stored("job of a workflow", "its node is missing"))?;
            let source: Option<u32> = row.get(2)?;
            (row.get(0)?, row.get(1)?, source.filter(|_| row.get(3).unwrap_or(false)), rows::when(row, 4)?)
        };
        let input = match (source, when) {
            (None, _) => Input::Nothing,
            (Some(source), When::Failure) => Input::Error(source),
            (Some(source), When::Success) => self.input(workflow, source)?,
        };
        let spec = self.flows.template(self.conn, self.scheduler, workflow, template)?.of.spec.clone();
        let depth = self.flows.flow(self.conn, workflow)?.depth;
        let node = DeliveredNode { workflow: id, node: number, group, depth, arguments, input };
        Ok((spec, Some(Box::new(node))))
    }

    fn input(&self, workflow: i64, source: u32) -> Result<Input, Fault> {
        let mut statement = self.conn.prepare_cached(INPUT)?;
        let mut found = statement.query(params![workflow, source])?;
        let Some(row) = found.next()? else { return Ok(Input::Result(source)) };
        let whole = rows::state(row, 0)? == JobState::Succeeded && row.get(1)?;
        let result = row.get_ref(2)?.as_str_or_null().map_err(|error| Fault::stored("result", error))?;
        let result = result.unwrap_or("null");
        Ok(if whole && result.len() <= INLINE_INPUT_BYTES {
            Input::Value(result.to_owned())
        } else {
            Input::Result(source)
        })
    }

    pub(crate) fn renew(&mut self, lease_ms: u64, renewal: &Renewal) -> Result<LeaseState, Fault> {
        let Some(mut head) = head::by_id(self.conn, self.scheduler, &renewal.tenant, renewal.id)? else {
            return Ok(LeaseState::Lost);
        };
        if !head.held_by(&renewal.token) {
            return Ok(LeaseState::Lost);
        }
        head.put_progress(self.conn, renewal.progress.as_ref())?;
        head.append_logs(self.conn, self.limits.max_log_lines, &renewal.logs)?;
        let sql = "UPDATE job SET at = ?, log_lines = ? WHERE rid = ?";
        let lease_until = int(self.now.saturating_add(lease_ms));
        self.conn.prepare_cached(sql)?.execute(params![lease_until, int(head.log_lines), head.rid])?;
        Ok(if head.cancel_requested && !head.let_end { LeaseState::Cancel } else { LeaseState::Held })
    }

    pub(crate) fn settle(&mut self, settle: &Settle) -> Result<Settled, Fault> {
        let Some(mut head) = head::by_id(self.conn, self.scheduler, &settle.tenant, settle.id)? else {
            return Ok(Settled::Lost);
        };
        if !head.held_by(&settle.token) {
            let repeated = head.has_token(&settle.token) && could_have_followed(&settle.resolution, &head);
            return Ok(if repeated { Settled::AlreadyDone } else { Settled::Lost });
        }
        // What was cancelled does not come back, and adds nothing as it goes.
        let grows = match settle.resolution {
            Resolution::Succeed { .. } => true,
            Resolution::Replace { .. } => !head.cancel_requested,
            _ => false,
        };
        if grows {
            if !self.has_room(&head, settle)? {
                return Ok(Settled::NoCapacity);
            }
            if let Some(growth) = &settle.growth {
                self.grow(&head, growth)?;
            }
        }
        head.put_progress(self.conn, settle.progress.as_ref())?;
        head.append_logs(self.conn, self.limits.max_log_lines, &settle.logs)?;
        if let Some(record) = &settle.record {
            head.remember(self.conn, record)?;
        }
        self.leave(&mut head)?;
        self.resolve(&mut head, &settle.resolution)?;
        self.save(&mut head)?;
        Ok(Settled::Recorded)
    }

    fn resolve(&mut self, head: &mut Head, resolution: &Resolution) -> Result<(), Fault> {
        // What was cancelled does not come back.
        let cancelled = head.cancel_requested;
        match resolution {
            Resolution::Succeed { result } => {
                head.put_result(self.conn, result.as_ref().map(|result| result.get()))?;
                self.finish(head, JobState::Succeeded)?;
            }
            Resolution::Fail { failure } => {
                head.put_failure(self.conn, failure)?;
                self.finish(head, JobState::Failed)?;
            }
            Resolution::Revoke => self.finish(head, JobState::Revoked)?,
            _ if cancelled => self.finish(head, JobState::Revoked)?,
            Resolution::Retry { delay_ms, failure } => {
                head.put_failure(self.conn, failure)?;
                head.retries += 1;
                head.deliveries = 0;
                self.delay(head, JobState::Retrying, self.now.saturating_add(*delay_ms))?;
            }
            Resolution::Snooze { delay_ms } => {
                head.deliveries = 0;
                self.delay(head, JobState::Scheduled, self.now.saturating_add(*delay_ms))?;
            }
            Resolution::Release => {
                head.deliveries = head.deliveries.saturating_sub(1);
                self.enqueue_at_its_place(head)?;
            }
            Resolution::Replace { workflow } => {
                head.state = JobState::Waiting;
                // Nothing is to be done with it until its child ends.
                head.at = None;
                head.child = Some(*workflow);
                self.tell_state(head)?;
            }
        }
        Ok(())
    }
}

/// Whether a job that is now like this can be so because of this resolution.
fn could_have_followed(resolution: &Resolution, head: &Head) -> bool {
    let state = head.state;
    match resolution {
        Resolution::Replace { workflow } => head.child == Some(*workflow) || state == JobState::Revoked,
        Resolution::Succeed { .. } => state == JobState::Succeeded,
        Resolution::Fail { .. } => state == JobState::Failed,
        Resolution::Revoke => state == JobState::Revoked,
        Resolution::Retry { .. } | Resolution::Snooze { .. } | Resolution::Release => {
            !matches!(state, JobState::Running | JobState::Succeeded | JobState::Failed | JobState::Waiting)
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
