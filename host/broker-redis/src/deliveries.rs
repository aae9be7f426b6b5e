//! Deliveries: claimed, renewed and settled, in batches.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use redis::Value;
use umbel_broker::{Claim, ClaimQueues, Deliveries, Delivery, Error, LeaseState, Renewal, Result, Settle, Settled};

use umbel_model::Token;

use crate::{
    RedisBroker,
    answers::Answer,
    args,
    blobs::{HEX_DIGITS, digest},
    connection::Repeat,
    encode,
    jobs::BATCH,
    unknown_code,
};

/// Claims whose answers were lost and that are remembered.
const MAX_LOST_CLAIMS: usize = 100;
/// Leases among which the jobs of lost claims are looked for: those that end last.
const MAX_LEASES: u32 = 20_000;
/// A claim takes this part of its jobs from one queue in a row: to look at one costs as much as two jobs.
const CLAIM_QUEUES: u32 = 4;

#[async_trait]
impl Deliveries for RedisBroker {
    async fn claim(&self, claim: &Claim) -> Result<Vec<Delivery>> {
        Ok(self.settle(&[], Some(claim)).await?.1)
    }

    fn in_row(&self, max: u32) -> u32 {
        max.div_ceil(CLAIM_QUEUES)
    }

    async fn renew(&self, lease_ms: u64, renewals: &[Renewal]) -> Result<Vec<LeaseState>> {
        let mut states = Vec::with_capacity(renewals.len());
        for batch in renewals.chunks(BATCH) {
            let mut args = args([&self.limits.max_log_lines, &lease_ms.min(1 << 48)]);
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

    async fn settle(&self, settles: &[Settle], then: Option<&Claim>) -> Result<(Vec<Settled>, Vec<Delivery>)> {
        let asks_none = |claim: &&Claim| matches!(&claim.queues, ClaimQueues::Named(names) if names.is_empty());
        let then = then.filter(|claim| claim.max > 0 && !asks_none(claim));
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
}

/// Claims whose answers were lost: their jobs may have been handed out, to nobody.
#[derive(Debug, Default)]
pub(crate) struct LostClaims(Mutex<Vec<Token>>);

impl LostClaims {
    fn seeds(&self) -> MutexGuard<'_, Vec<Token>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, seeds: impl IntoIterator<Item = Token>) {
        let mut all = self.seeds();
        all.extend(seeds);
        let old = all.len().saturating_sub(MAX_LOST_CLAIMS);
        all.drain(..old);
    }
}

/// A claim under way. It is lost when this is dropped, unless it was answered.
struct Claiming<'a> {
    lost: &'a LostClaims,
    seed: Option<Token>,
}

impl Drop for Claiming<'_> {
    fn drop(&mut self) {
        self.lost.add(self.seed.take());
    }
}

impl RedisBroker {
    /// Hands back what lost claims may hold; otherwise it would wait until their leases end.
    async fn hand_back(&self) -> Result<()> {
        let seeds = std::mem::take(&mut *self.lost_claims.seeds());
        if seeds.is_empty() {
            return Ok(());
        }
        let mut args = args([&MAX_LEASES]);
        args.extend(seeds.iter().map(|seed| seed.as_str().as_bytes().to_vec()));
        match self.typed::<u32>("hand_back", args, Repeat::Safe).await {
            Ok(jobs) => {
                if jobs > 0 {
                    tracing::warn!(jobs, "the answer to a claim was lost; its jobs are handed back");
                }
                Ok(())
            }
            Err(error) => {
                self.lost_claims.add(seeds);
                Err(error)
            }
        }
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
        args.extend(encode::settles(settles, &self.limits)?);
        if then.is_some() {
            self.hand_back().await?;
        }
        let mut claiming = Claiming { lost: &self.lost_claims, seed: then.map(|claim| claim.token_seed.clone()) };
        let answer =
            if grows { self.settle_growing(args, repeat).await } else { self.run("settle", args, repeat).await };
        if !matches!(answer, Err(Error::Unavailable(_))) {
            claiming.seed = None;
        }
        let value = answer?;
        let mut answer = Answer::new(value)?;
        let codes = answer.text()?;
        let (codes, mut missing) = codes.split_at_checked(settles.len()).ok_or_else(unknown_code)?;
        for code in codes.bytes() {
            settled.push(match code {
                b'R' => Settled::Recorded,
                b'A' => Settled::AlreadyDone,
                b'L' => Settled::Lost,
                b'N' => Settled::NoCapacity,
                b'S' => Settled::BlobStorageFull,
                b'M' => Settled::TooManyBlobs(self.limits.max_blobs),
                b'D' => {
                    let (first, others) = missing.split_at_checked(HEX_DIGITS).ok_or_else(unknown_code)?;
                    missing = others;
                    Settled::MissingBlob(digest(first)?)
                }
                _ => return Err(unknown_code()),
            });
        }
        answer.rest(Answer::delivery)
    }

    /// A full server refuses what guests add, and records what ended.
    async fn settle_growing(&self, args: Vec<Vec<u8>>, repeat: Repeat) -> Result<Value> {
        match self.run("settle_growing", args.clone(), repeat).await {
            Err(Error::Full(_)) => self.run("settle", args, repeat).await,
            other => other,
        }
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
