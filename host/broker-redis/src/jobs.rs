//! Submit, claim, renew, settle: the operations in batches.

use std::collections::HashSet;

use redis::Value;
use umbel_broker::{
    Claim, Delivery, Error, LeaseState, NewJob, Renewal, Result, SUPERSEDED, Settle, Settled, Submitted,
    superseded_message,
};
use umbel_model::{Failure, JobId};

use crate::{
    RedisBroker,
    answers::Answer,
    bytes::{corrupt, json},
    connection::Repeat,
    encode,
};

/// Jobs of one call: it stops everybody else while it runs, and 500 take about 3 ms.
const BATCH: usize = 500;

impl RedisBroker {
    pub(crate) async fn submit_batches(&self, jobs: &[NewJob]) -> Result<Vec<Submitted>> {
        let mut answers = Vec::with_capacity(jobs.len());
        for batch in jobs.chunks(BATCH) {
            // The model has the words; the function puts the id in.
            let by = JobId::from_parts(0, 0);
            let superseded = json(&Failure::new(SUPERSEDED, superseded_message(by)))?;
            let limits = [self.limits.max_backlog.to_string(), self.limits.max_queues.to_string()];
            let mut args: Vec<Vec<u8>> =
                limits.into_iter().chain([superseded, by.to_string()]).map(String::into_bytes).collect();
            args.extend(encode::new_jobs(batch)?);
            let mut answer = Answer::new(self.run("submit", args, Repeat::Safe).await?)?;
            for code in answer.text()?.bytes() {
                answers.push(match code {
                    b'C' => Submitted::Created,
                    b'E' => Submitted::Existing(answer.text()?.parse().map_err(corrupt)?),
                    b'X' => Submitted::Conflict(answer.text()?.parse().map_err(corrupt)?),
                    b'D' => Submitted::Duplicate(answer.text()?.parse().map_err(corrupt)?),
                    b'F' => Submitted::QueueFull,
                    b'Q' => Submitted::TooManyQueues,
                    b'N' => Submitted::NotDead,
                    _ => return Err(unknown_code()),
                });
            }
        }
        Ok(answers)
    }

    pub(crate) async fn settle_batches(
        &self,
        settles: &[Settle],
        then: Option<&Claim>,
    ) -> Result<(Vec<Settled>, Vec<Delivery>)> {
        let then = then.filter(|claim| claim.max > 0 && !claim.queues.is_empty());
        let batches = batches(settles);
        let (last, others) = match batches.split_last() {
            Some((last, others)) => (*last, others),
            // Also when it claims nothing: it goes on with the work list.
            None => (&[] as &[Settle], &[] as &[&[Settle]]),
        };
        let mut settled = Vec::with_capacity(settles.len());
        for batch in others {
            self.settle_batch(batch, None, &mut settled).await?;
        }
        let deliveries = match self.settle_batch(last, then, &mut settled).await {
            // The reply was lost, and with it perhaps deliveries, which their leases will bring back. What was settled
            // is asked again; the claim is not, or it would take as much a second time.
            Err(Error::Unavailable(_)) if then.is_some() && !last.is_empty() => {
                self.settle_batch(last, None, &mut settled).await?
            }
            other => other?,
        };
        Ok((settled, deliveries))
    }

    async fn settle_batch(
        &self,
        settles: &[Settle],
        then: Option<&Claim>,
        settled: &mut Vec<Settled>,
    ) -> Result<Vec<Delivery>> {
        let max = then.map_or(0, |claim| claim.max.min(BATCH as u32));
        let hears = |claim: &Claim| self.signals.hears(&self.connection, &claim.worker);
        let request = then.map(|claim| encode::claim(claim, max, hears(claim))).transpose()?.unwrap_or_default();
        let repeat = if request.is_empty() { Repeat::Safe } else { Repeat::OnlyUnsent };
        let mut args = self.workflow_limits();
        let grows = settles.iter().any(|settle| settle.growth.is_some());
        args.extend([self.limits.max_log_lines.to_string().into_bytes(), request]);
        args.extend(encode::settles(settles)?);
        let value =
            if grows { self.settle_growing(args, repeat).await? } else { self.run("settle", args, repeat).await? };
        let mut answer = Answer::new(value)?;
        for code in answer.text()?.bytes() {
            settled.push(match code {
                b'R' => Settled::Recorded,
                b'A' => Settled::AlreadyDone,
                b'L' => Settled::Lost,
                b'N' => Settled::NoCapacity,
                _ => return Err(unknown_code()),
            });
        }
        let mut deliveries = Vec::new();
        while !answer.done() {
            deliveries.push(answer.delivery()?);
        }
        Ok(deliveries)
    }

    /// A full server refuses what guests add, and records what ended.
    async fn settle_growing(&self, args: Vec<Vec<u8>>, repeat: Repeat) -> Result<Value> {
        match self.run("settle_growing", args.clone(), repeat).await {
            Err(Error::Full(_)) => self.run("settle", args, repeat).await,
            other => other,
        }
    }

    pub(crate) async fn renew_batches(&self, lease_ms: u64, renewals: &[Renewal]) -> Result<Vec<LeaseState>> {
        let mut states = Vec::with_capacity(renewals.len());
        for batch in renewals.chunks(BATCH) {
            let mut args = vec![
                self.limits.max_log_lines.to_string().into_bytes(),
                lease_ms.min(1 << 48).to_string().into_bytes(),
            ];
            for renewal in batch {
                args.push(encode::renewal(renewal)?);
            }
            // Log lines may come twice when a reply was lost; better than a lease that ends.
            let answer: Vec<u8> = self.typed("renew", args, Repeat::Safe).await?;
            for code in answer {
                states.push(match code {
                    b'H' => LeaseState::Held,
                    b'C' => LeaseState::Cancel,
                    b'L' => LeaseState::Lost,
                    _ => return Err(unknown_code()),
                });
            }
        }
        Ok(states)
    }
}

/// Pieces of at most `BATCH`, none with a job twice: a call reads all of its jobs before it ends any.
fn batches(settles: &[Settle]) -> Vec<&[Settle]> {
    let (mut batches, mut first, mut seen) = (Vec::new(), 0, HashSet::with_capacity(settles.len().min(BATCH)));
    for (at, settle) in settles.iter().enumerate() {
        if at - first == BATCH || !seen.insert((&settle.tenant, settle.id)) {
            batches.push(&settles[first..at]);
            first = at;
            seen.clear();
            seen.insert((&settle.tenant, settle.id));
        }
    }
    if first < settles.len() {
        batches.push(&settles[first..]);
    }
    batches
}

fn unknown_code() -> Error {
    Error::Failed("a function answered with a code that is not known".into())
}
