//! The round trip: settles what finished and claims more, in one request.
//!
//! A worker that has much to do starts a second one before the first is answered, so that the broker has its next request
//! at once, and works while the answers are read here.
//!
//! Example: 512 deliveries may be claimed ahead, 400 wait in the local queue, and 112 settles are under way with a claim
//! of 112. When the slots have taken 128 of them, those settles go in a second round trip, with a claim of 128.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use umbel_broker::{Claim, Delivery, Error as BrokerError, LimitedTenants, Settled};
use umbel_model::{Resolution, Token};

use super::{MAX_CLAIM, PollLoop, renewals};
use crate::{
    active_delivery::ActiveDelivery, broker_failures::is_fault_of_request, completion::Finished,
    operating_system::random_u64, outbox::Batch,
};

/// Round trips under way at most: one that the broker works on, and one that waits for it.
const MAX_UNDER_WAY: usize = 2;

/// The round trips that are not answered.
#[derive(Default)]
pub(super) struct RoundTrips {
    under_way: FuturesUnordered<BoxFuture<'static, RoundTrip>>,
    /// Deliveries that their claims allow, and those of limited tenants.
    claiming: u32,
    claiming_limited: u32,
}

impl RoundTrips {
    pub(super) fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// The next one that is answered; None when none is under way.
    pub(super) async fn next(&mut self) -> Option<RoundTrip> {
        let done = self.under_way.next().await?;
        self.claiming -= done.claimed;
        self.claiming_limited -= done.claimed_limited;
        Some(done)
    }
}

pub(super) struct RoundTrip {
    batch: Batch,
    /// Deliveries that the claim allowed; 0 without a claim.
    claimed: u32,
    claimed_limited: u32,
    started: Instant,
    answer: Result<(Vec<Settled>, Vec<Delivery>), BrokerError>,
}

impl PollLoop {
    pub(super) fn start_renewal(&mut self, now: Instant) -> Option<BoxFuture<'static, renewals::Sent>> {
        let pending = self.renewals.start(now, &mut self.leases)?;
        Some(Box::pin(renewals::send(self.broker.clone(), self.config.lease_ms, pending)))
    }

    /// Takes the attempts that finished.
    pub(super) fn collect(&mut self, arrived: &mut Vec<Finished>) {
        while arrived.len() < 2 * MAX_CLAIM as usize {
            match self.channels.finished.try_recv() {
                Ok(finished) => arrived.push(finished),
                Err(_) => break,
            }
        }
        for finished in arrived.drain(..) {
            if let Some(took_us) = finished.took_us {
                self.prefetch.learn(took_us);
            }
            self.end(finished);
        }
    }

    /// A delivery ended here: its settle is sent next, unless its lease was lost.
    fn end(&mut self, finished: Finished) {
        let seq = finished.active.seq;
        if self.leases.end(seq) {
            self.outbox.push(finished, self.leases.is_reporting(seq));
        }
    }

    /// Deliveries to claim now.
    fn wanted(&mut self, now: Instant) -> u32 {
        let may_claim = self.lifecycle.claims() && self.claims.failures.until(now).is_none();
        if !may_claim || self.outbox.is_without_claim() {
            return 0;
        }
        let ended = self.leases.len().saturating_sub(self.leases.open);
        let ahead = self.prefetch.update(self.config.guest_threads, ended as usize);
        let open = self.leases.open + self.round_trips.claiming;
        (self.capacity.slots + ahead).saturating_sub(open).min(MAX_CLAIM)
    }

    /// Tenants of which a claim may take few jobs: those whose attempts are long, beside what is under way for them.
    fn limited(&self, now: Instant) -> LimitedTenants {
        let LimitedTenants { tenants, max } = self.local_queue.limited(now);
        LimitedTenants { tenants, max: max.saturating_sub(self.round_trips.claiming_limited) }
    }

    /// Settles that the next round trip waits for, while there is claimed work to go on with.
    fn worthwhile(&self) -> Option<usize> {
        let settles = if self.round_trips.is_empty() { self.prefetch.batch() } else { self.prefetch.second_batch() };
        settles.filter(|_| !self.lifecycle.shuts_down())
    }

    /// The slots call the poll loop when they have taken enough for the next round trip. False if they cannot take so many.
    fn await_next_batch(&self) -> bool {
        let Some(settles) = self.worthwhile() else { return false };
        let missing = settles.saturating_sub(self.outbox.ready());
        let waiting = self.local_queue.len();
        self.local_queue.set_low_water(waiting.saturating_sub(missing));
        waiting >= missing
    }

    /// Starts the round trips that are due. `arrived` is a buffer.
    pub(super) fn start_round_trips(&mut self, now: Instant, arrived: &mut Vec<Finished>) {
        if self.failures.until(now).is_some() {
            return;
        }
        if self.round_trips.is_empty() && self.outbox.gathers_until(now).is_none() {
            self.collect(arrived);
            if self.start_round_trip(now) {
                self.await_next_batch();
            }
        }
        let is_second = self.round_trips.under_way.len() == MAX_UNDER_WAY - 1 && self.outbox.is_undisturbed();
        if is_second
            && self.local_queue.is_low()
            && let Some(settles) = self.worthwhile()
        {
            self.collect(arrived);
            // The last ones may still be on their slots.
            if self.outbox.ready() >= settles / 2 {
                self.start_round_trip(now);
            }
        }
    }

    /// Whether there was a reason for one.
    fn start_round_trip(&mut self, now: Instant) -> bool {
        let (wanted, is_due) = (self.wanted(now), self.claims.is_due(now));
        if self.outbox.ready() == 0 && (wanted == 0 || !is_due) {
            return false;
        }
        let queues = if wanted > 0 { self.claims.start(now) } else { None };
        let claim = queues.map(|queues| Claim {
            worker: self.config.id.clone(),
            queues,
            max: wanted,
            lease_ms: self.config.lease_ms,
            token_seed: token_seed(),
            limited: self.limited(now),
            in_row: self.broker.in_row(wanted),
        });
        let batch = self.outbox.batch();
        batch.actives().for_each(|active| active.settle_sent());
        if batch.settles.is_empty() && claim.is_none() {
            return false;
        }
        // A broker that does not answer for so long counts as not reachable.
        let limit = Duration::from_millis(self.config.lease_ms.max(5_000));
        let broker = self.broker.clone();
        let claimed = claim.as_ref().map_or(0, |claim| claim.max);
        let claimed_limited = claim.as_ref().map_or(0, |claim| claim.limited.max);
        self.round_trips.claiming += claimed;
        self.round_trips.claiming_limited += claimed_limited;
        self.round_trips.under_way.push(Box::pin(async move {
            let exchange = async {
                match &claim {
                    Some(claim) if batch.settles.is_empty() => Ok((Vec::new(), broker.claim(claim).await?)),
                    claim => broker.settle(&batch.settles, claim.as_ref()).await,
                }
            };
            let answer = tokio::time::timeout(limit, exchange).await;
            let answer = answer.unwrap_or_else(|_| Err(BrokerError::Unavailable("no answer in time".into())));
            RoundTrip { batch, claimed, claimed_limited, started: now, answer }
        }));
        true
    }

    pub(super) fn round_trip_done(&mut self, done: RoundTrip) {
        let RoundTrip { batch, claimed, started, answer, .. } = done;
        let (settled, deliveries) = match answer {
            Ok(answer) => answer,
            Err(error) => return self.round_trip_failed(batch, claimed, &error),
        };
        if self.failures.succeeded() {
            tracing::info!(worker = %self.config.id, "the broker answers again");
        }
        self.outbox.succeeded();
        if claimed > 0 {
            if self.claims.failures.succeeded() {
                tracing::info!(worker = %self.config.id, "the broker answers claims again");
            }
            if batch.settles.is_empty() {
                self.outbox.claimed_alone();
            }
            let is_full = deliveries.len() as u32 >= claimed;
            self.claims.answered(is_full);
            if !is_full {
                self.prefetch.found_the_end();
            }
        }
        self.settled(&batch, &settled);
        // Before the new deliveries start: the job that was settled may have been the last one.
        self.check_job_count();
        self.hand_out(deliveries, started);
        let gathers = self.await_next_batch() && self.round_trips.is_empty();
        self.outbox.gather_until = gathers.then(|| Instant::now() + Duration::from_millis(self.config.gather_ms));
    }

    /// Takes the answers to settles.
    fn settled(&mut self, batch: &Batch, answers: &[Settled]) {
        for ((active, settle), answer) in batch.actives().zip(&batch.settles).zip(answers) {
            active.settle_answered();
            match answer {
                // The lease still holds: the job ends with an error instead.
                Settled::NoCapacity | Settled::MissingBlob(_) | Settled::BlobStorageFull | Settled::TooManyBlobs(_) => {
                    let is_reporting = self.leases.is_reporting(active.seq);
                    self.outbox.push(Finished::refused(active.clone(), settle, *answer), is_reporting);
                    continue;
                }
                // A job that was given back was not done here.
                _ if matches!(settle.resolution, Resolution::Release) => {}
                Settled::Recorded | Settled::AlreadyDone => self.channels.vitals.count_settled(),
                Settled::Lost => {
                    let delivery = &active.delivery;
                    tracing::warn!(tenant = %delivery.tenant, job = %delivery.id, "outcome refused: the lease was lost");
                }
            }
            self.leases.remove(active.seq);
        }
    }

    fn round_trip_failed(&mut self, batch: Batch, claimed: u32, error: &BrokerError) {
        let (worker, now) = (&self.config.id, Instant::now());
        let has_claim = claimed > 0;
        if has_claim {
            self.claims.expects_work = true;
        }
        let is_faulty = is_fault_of_request(error);
        if is_faulty {
            batch.actives().for_each(|active| active.settle_answered());
        }
        if is_faulty && has_claim && !batch.settles.is_empty() {
            tracing::warn!(%worker, %error, "outcomes were not taken with a claim; they go alone");
            return self.outbox.failed_with_claim(batch);
        }
        if is_faulty && has_claim {
            if self.claims.failures.failed(now, random_u64()) {
                tracing::error!(%worker, %error, "the broker failed on a claim; trying again");
            }
            return;
        }
        if self.failures.failed(now, random_u64()) {
            tracing::warn!(%worker, %error, "the broker failed; trying again until it answers");
        }
        if is_faulty {
            self.outbox.failed(batch, &mut self.leases);
        } else {
            self.outbox.unreached(batch);
        }
    }

    fn hand_out(&mut self, deliveries: Vec<Delivery>, since: Instant) {
        let (wakers, rates) = (&self.channels.wakers, &self.node_rates);
        let mut actives = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            self.last_seq += 1;
            let active = Arc::new(ActiveDelivery::new(self.last_seq, delivery, wakers.clone(), rates.clone()));
            self.leases.add(active.clone(), since);
            actives.push(active);
        }
        if !self.lifecycle.claims() {
            // Not through the local queue: a slot might take them.
            actives.into_iter().for_each(|active| self.end(Finished::released(active)));
        } else if !actives.is_empty() {
            self.local_queue.push(actives);
        }
    }

    /// Gives back the deliveries that no slot has taken.
    pub(super) fn give_back(&mut self) {
        for active in self.local_queue.take_back() {
            self.end(Finished::released(active));
        }
        self.outbox.gather_until = None;
    }
}

/// 128 random bits, so that no two deliveries ever share a token.
fn token_seed() -> Token {
    let seed = format!("{:016x}{:016x}", random_u64(), random_u64());
    Token::new(seed).expect("hex digits are a token")
}
