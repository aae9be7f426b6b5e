//! Claim, renew, settle.

use rusqlite::params;
use umbel_broker::{CLAIM_SCAN, Claim, Delivery, LeaseState, Renewal, Settle, Settled};
use umbel_model::{JobState, Resolution, Token};

use super::{
    head::{self, Head},
    step::Step,
};
use crate::{error::Fault, rows::int};

impl Step<'_> {
    pub(crate) fn claim(&mut self, claim: &Claim) -> Result<Vec<Delivery>, Fault> {
        let mut deliveries = Vec::new();
        let mut budget = claim.max.saturating_add(CLAIM_SCAN);
        for queue in &claim.queues {
            while (deliveries.len() as u64) < u64::from(claim.max) && budget > 0 {
                let Some(line) = self.lines.pick(queue) else { break };
                let Some((mut head, spec)) = head::next_ready(self.conn, self.lines, line)? else {
                    return Err(Fault::stored("line", "it counts ready jobs and has none"));
                };
                budget -= 1;
                self.leave(&head);
                if head.expired(self.now) {
                    self.finish(&mut head, JobState::Expired);
                } else {
                    deliveries.push(self.deliver(&mut head, spec, claim, deliveries.len())?);
                }
                head.save(self.conn)?;
            }
        }
        Ok(deliveries)
    }

    fn deliver(&mut self, head: &mut Head, spec: String, claim: &Claim, index: usize) -> Result<Delivery, Fault> {
        let token = Token::new(format!("{}-{index}", claim.token_seed))
            .map_err(|error| Fault::stored("token seed of a claim", error))?;
        head.state = JobState::Running;
        head.deliveries += 1;
        head.fence = self.now.saturating_mul(1_000).max(head.fence + 1);
        head.started_at = Some(self.now);
        head.worker = Some(claim.worker.as_str().to_owned());
        head.at = Some(self.now.saturating_add(claim.lease_ms));
        head.token = Some(token.as_str().to_owned());
        self.lines.change(head.line, |counts| counts.running += 1);
        Ok(Delivery {
            tenant: self.lines.tenant(head.line).clone(),
            id: head.id,
            queue: self.lines.queue(head.line).clone(),
            token,
            fence: head.fence,
            spec,
            retries: head.retries,
            delivery: head.deliveries,
        })
    }

    pub(crate) fn renew(&mut self, lease_ms: u64, renewal: &Renewal) -> Result<LeaseState, Fault> {
        let Some(mut head) = head::by_id(self.conn, self.lines, &renewal.tenant, renewal.id)? else {
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
        Ok(if head.cancel_requested { LeaseState::Cancel } else { LeaseState::Held })
    }

    pub(crate) fn settle(&mut self, settle: &Settle) -> Result<Settled, Fault> {
        let Some(mut head) = head::by_id(self.conn, self.lines, &settle.tenant, settle.id)? else {
            return Ok(Settled::Lost);
        };
        if !head.held_by(&settle.token) {
            let repeated = head.has_token(&settle.token) && could_have_followed(&settle.resolution, head.state);
            return Ok(if repeated { Settled::AlreadyDone } else { Settled::Lost });
        }
        head.put_progress(self.conn, settle.progress.as_ref())?;
        head.append_logs(self.conn, self.limits.max_log_lines, &settle.logs)?;
        if let Some(record) = &settle.record {
            head.remember(self.conn, record)?;
        }
        self.leave(&head);
        self.resolve(&mut head, &settle.resolution)?;
        head.save(self.conn)?;
        Ok(Settled::Recorded)
    }

    fn resolve(&mut self, head: &mut Head, resolution: &Resolution) -> Result<(), Fault> {
        // What was cancelled does not come back.
        let cancelled = head.cancel_requested;
        match resolution {
            Resolution::Succeed { result } => {
                head.put_result(self.conn, result.as_ref().map(|result| result.get()))?;
                self.finish(head, JobState::Succeeded);
            }
            Resolution::Fail { failure } => {
                head.put_failure(self.conn, failure)?;
                self.finish(head, JobState::Failed);
            }
            Resolution::Revoke => self.finish(head, JobState::Revoked),
            _ if cancelled => self.finish(head, JobState::Revoked),
            Resolution::Retry { delay_ms, failure } => {
                head.put_failure(self.conn, failure)?;
                head.retries += 1;
                head.deliveries = 0;
                self.delay(head, JobState::Retrying, self.now.saturating_add(*delay_ms));
            }
            Resolution::Snooze { delay_ms } => {
                head.deliveries = 0;
                self.delay(head, JobState::Scheduled, self.now.saturating_add(*delay_ms));
            }
            Resolution::Release => {
                head.deliveries = head.deliveries.saturating_sub(1);
                self.enqueue_at_its_place(head);
            }
        }
        Ok(())
    }
}

/// Whether a job that is in `state` now can be there because of this resolution.
fn could_have_followed(resolution: &Resolution, state: JobState) -> bool {
    match resolution {
        Resolution::Succeed { .. } => state == JobState::Succeeded,
        Resolution::Fail { .. } => state == JobState::Failed,
        Resolution::Revoke => state == JobState::Revoked,
        Resolution::Retry { .. } | Resolution::Snooze { .. } | Resolution::Release => {
            !matches!(state, JobState::Running | JobState::Succeeded | JobState::Failed)
        }
    }
}
