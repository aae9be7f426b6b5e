//! The round trip: settles what finished and claims more, in one request.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use umbel_broker::{Claim, Delivery, Error as BrokerError, Settled};
use umbel_model::{Resolution, Token};

use super::{MAX_CLAIM, PollLoop};
use crate::{active::Active, attempt::random_u64, completion::Finished, outbox::Batch};

pub(super) type RoundTrip = std::pin::Pin<Box<dyn Future<Output = RoundTripDone> + Send>>;

pub(super) struct RoundTripDone {
    batch: Batch,
    /// What was asked for.
    claimed: u32,
    started: Instant,
    answer: Result<(Vec<Settled>, Vec<Delivery>), BrokerError>,
}

impl PollLoop {
    /// True while finished attempts should gather: there is plenty to do, and a bell rings when that ends.
    pub(super) fn is_gathering(&mut self, now: Instant) -> bool {
        if self.gather_until.is_some_and(|until| until <= now) {
            self.gather_until = None;
        }
        self.gather_until.is_some()
    }

    /// Takes what finished.
    pub(super) fn collect(&mut self, arrived: &mut Vec<Finished>) {
        while arrived.len() < 2 * MAX_CLAIM as usize {
            match self.finished.try_recv() {
                Ok(finished) => arrived.push(finished),
                Err(_) => break,
            }
        }
        for finished in arrived.drain(..) {
            if let Some(took_us) = finished.took_us {
                self.pace.learn(took_us);
            }
            let seq = finished.active.seq;
            if self.book.ended(seq) {
                let telling = self.book.is_telling(seq);
                self.outbox.push(finished, telling);
            }
        }
    }

    /// What is claimed all the same was asked for before, and is given back.
    fn claims_nothing(&self) -> bool {
        self.paused || self.drain.is_some()
    }

    /// Deliveries to ask for now.
    fn wanted(&mut self) -> u32 {
        if self.claims_nothing() || self.no_claim_until.is_some() || self.outbox.goes_alone() {
            return 0;
        }
        self.ahead = self.pace.ahead(self.config.guest_threads, self.outbox.ready());
        self.local_queue.set_low_water(self.ahead as usize / 2);
        (self.slots + self.ahead).saturating_sub(self.book.open()).min(MAX_CLAIM)
    }

    pub(super) fn start_round_trip(&mut self, now: Instant) -> Option<RoundTrip> {
        if self.blocked_until.is_some() {
            return None;
        }
        let wanted = self.wanted();
        let poll = self.next_poll <= now;
        if poll {
            self.next_poll = now + Duration::from_millis(self.config.poll_ms);
        }
        if self.outbox.ready() == 0 && (wanted == 0 || !(self.hinted || poll)) {
            return None;
        }
        // Asked only for a claim: a queue that was heard of leaves the list with it.
        let queues = if wanted > 0 { self.queues.next() } else { Vec::new() };
        let claim = (!queues.is_empty()).then(|| Claim {
            worker: self.config.id.clone(),
            queues,
            max: wanted,
            lease_ms: self.config.lease_ms,
            token_seed: token_seed(),
        });
        if wanted > 0 {
            self.hinted = self.queues.has_more();
            self.next_poll = now + Duration::from_millis(self.config.poll_ms);
        }
        let batch = self.outbox.batch();
        if batch.settles.is_empty() && claim.is_none() {
            return None;
        }
        let broker = self.broker.clone();
        // A broker that answers nothing at all is as good as gone.
        let limit = Duration::from_millis(self.config.lease_ms.max(5_000));
        Some(Box::pin(async move {
            let work = async {
                match &claim {
                    Some(claim) if batch.settles.is_empty() => Ok((Vec::new(), broker.claim(claim).await?)),
                    then => broker.settle(&batch.settles, then.as_ref()).await,
                }
            };
            let answer = tokio::time::timeout(limit, work).await;
            let answer = answer.unwrap_or_else(|_| Err(BrokerError::Unavailable("no answer in time".into())));
            RoundTripDone { batch, claimed: claim.map_or(0, |c| c.max), started: now, answer }
        }))
    }

    pub(super) fn round_trip_done(&mut self, done: RoundTripDone) {
        let RoundTripDone { batch, claimed, started, answer } = done;
        let (settled, deliveries) = match answer {
            Ok(answer) => answer,
            Err(error) => return self.round_trip_failed(batch, claimed, &error),
        };
        if self.retries.succeeded() {
            tracing::info!(worker = %self.config.id, "the broker answers again");
        }
        self.outbox.succeeded();
        if claimed > 0 {
            self.claim_answered(batch.settles.is_empty());
        }
        for ((active, settle), answer) in batch.actives().zip(&batch.settles).zip(&settled) {
            match answer {
                // Its lease is still held: it ends with an error instead.
                Settled::NoCapacity => {
                    let refused = Finished::refused(active.clone(), settle);
                    let telling = self.book.is_telling(active.seq);
                    self.outbox.push(refused, telling);
                    continue;
                }
                // What was given back is no job that was done here.
                _ if matches!(settle.resolution, Resolution::Release) => {}
                Settled::Recorded | Settled::AlreadyDone => self.vitals.settled(),
                Settled::Lost => {
                    let delivery = &active.delivery;
                    tracing::warn!(tenant = %delivery.tenant, job = %delivery.id, "outcome refused: the lease was lost");
                }
            }
            self.book.forget(active.seq);
        }
        // A full answer means that there may be more.
        self.hinted |= claimed > 0 && deliveries.len() as u32 >= claimed;
        // Before more is begun: this may have been the last one.
        self.count_jobs();
        self.hand_out(deliveries, started);
        let ahead = self.ahead as usize;
        // Below that there are too few to gather for.
        let plenty = ahead >= 32 && self.local_queue.len() > ahead / 2;
        self.gather_until =
            (plenty && self.drain.is_none()).then(|| Instant::now() + Duration::from_millis(self.config.gather_ms));
    }

    fn claim_answered(&mut self, alone: bool) {
        if self.claim_retries.succeeded() {
            tracing::info!(worker = %self.config.id, "the broker answers claims again");
        }
        if alone {
            self.outbox.claimed_alone();
        }
    }

    fn round_trip_failed(&mut self, batch: Batch, claimed: u32, error: &BrokerError) {
        self.hinted |= claimed > 0;
        let faulty = is_of_what_was_asked(error);
        match (faulty, claimed > 0, batch.settles.is_empty()) {
            (true, true, false) => {
                tracing::warn!(worker = %self.config.id, %error, "outcomes were not taken with a claim; they go alone");
                return self.outbox.failed_with_claim(batch);
            }
            (true, true, true) => {
                if self.claim_retries.is_first() {
                    tracing::error!(worker = %self.config.id, %error, "the broker failed on a claim; trying again");
                }
                let pause = Duration::from_millis(self.claim_retries.next_ms(random_u64()));
                self.no_claim_until = Some(Instant::now() + pause);
                return;
            }
            _ => {}
        }
        if self.retries.is_first() {
            tracing::warn!(worker = %self.config.id, %error, "the broker failed; trying again until it answers");
        }
        if faulty {
            self.outbox.failed(batch, &mut self.book);
        } else {
            self.outbox.unreached(batch);
        }
        self.blocked_until = Some(Instant::now() + Duration::from_millis(self.retries.next_ms(random_u64())));
    }

    fn hand_out(&mut self, deliveries: Vec<Delivery>, since: Instant) {
        let actives: Vec<Arc<Active>> = deliveries
            .into_iter()
            .map(|delivery| {
                self.next_seq += 1;
                let active = Arc::new(Active::new(self.next_seq, delivery, self.wakers.clone(), self.rates.clone()));
                self.book.add(active.clone(), since);
                active
            })
            .collect();
        if self.claims_nothing() {
            // Not by way of the line: a slot might take it.
            return actives.into_iter().for_each(|active| self.release(active));
        }
        if !actives.is_empty() {
            self.local_queue.push(actives);
        }
    }

    /// Gives back what no slot has taken.
    pub(super) fn give_back(&mut self) {
        for active in self.local_queue.take_back() {
            self.release(active);
        }
        self.gather_until = None;
    }

    fn release(&mut self, active: Arc<Active>) {
        if self.book.ended(active.seq) {
            let telling = self.book.is_telling(active.seq);
            self.outbox.push(Finished::released(active), telling);
        }
    }
}

/// Whether a failure may be the fault of one thing that was asked, and not of the broker as a whole.
pub(super) fn is_of_what_was_asked(error: &BrokerError) -> bool {
    !(error.is_transient() || matches!(error, BrokerError::Refused(_)))
}

/// 128 random bits, so that no two deliveries ever share a token.
fn token_seed() -> Token {
    let seed = format!("{:016x}{:016x}", random_u64(), random_u64());
    Token::new(seed).expect("hex digits are a token")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_refuses_everybody_is_no_reason_to_give_up_an_outcome() {
        let text = || "as the test wants".to_owned();
        for error in [BrokerError::Unavailable(text()), BrokerError::Full(text()), BrokerError::Refused(text())] {
            assert!(!is_of_what_was_asked(&error), "{error}");
        }
        for error in [BrokerError::Corrupt(text()), BrokerError::Failed(text())] {
            assert!(is_of_what_was_asked(&error), "{error}");
        }
    }
}
