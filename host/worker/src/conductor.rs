//! The conductor: claims, hands to the slots, renews and settles, on the caller's runtime.
//!
//! Invariants: at most one claim-or-settle and at most one renewal are under way; renewals never wait for guests, nor
//! for a settle; a hint is a reason to look and never the truth; when idle nothing waits for company.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, watch};
use umbel_broker::{Broker, Claim, Delivery, Error as BrokerError, LeaseState, Settled, Signal, Topic};
use umbel_model::{QueueName, Token};

use crate::{
    WorkerConfig,
    active::{Active, Bells},
    attempt::{Finished, random_u64},
    heartbeat::Vitals,
    held::{Book, Renewing},
    hints::Hints,
    outbox::{Batch, Outbox},
    pace::{Pace, Retries},
    queues::QueueSet,
    slots::Line,
};

/// Deliveries of one claim at most.
const MAX_CLAIM: u32 = 500;
/// Reports wait at most this long before they are told.
const FLUSH: Duration = Duration::from_millis(250);
/// Claimed work that no slot took for so long is given back.
const STALL: Duration = Duration::from_millis(250);
/// After the grace time and the stop of all guests, a drain waits so long for the broker to take the last settles.
const LAST_SETTLES: Duration = Duration::from_secs(10);

/// What the owner of a worker wants of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wish {
    Run,
    Drain,
    Stop,
}

type RoundTrip = Pin<Box<dyn Future<Output = RoundTripDone> + Send>>;
type Renewal = Pin<Box<dyn Future<Output = (Renewing, Result<Vec<LeaseState>, BrokerError>)> + Send>>;

struct RoundTripDone {
    batch: Batch,
    /// What was asked for.
    claimed: u32,
    started: Instant,
    answer: Result<(Vec<Settled>, Vec<Delivery>), BrokerError>,
}

/// What connects a conductor with the rest of its worker.
pub(crate) struct Wires {
    pub(crate) line: Arc<Line>,
    pub(crate) bells: Arc<Bells>,
    pub(crate) finished: mpsc::UnboundedReceiver<Finished>,
    pub(crate) wishes: watch::Receiver<Wish>,
    pub(crate) found: watch::Receiver<Vec<QueueName>>,
    pub(crate) vitals: Arc<Vitals>,
}

pub(crate) struct Conductor {
    broker: Arc<dyn Broker>,
    config: WorkerConfig,
    line: Arc<Line>,
    bells: Arc<Bells>,
    finished: mpsc::UnboundedReceiver<Finished>,
    wishes: watch::Receiver<Wish>,
    vitals: Arc<Vitals>,
    queues: QueueSet,
    found: watch::Receiver<Vec<QueueName>>,
    book: Book,
    outbox: Outbox,
    pace: Pace,
    retries: Retries,
    next_seq: u64,
    /// There may be work: a hint, or the last claim was full.
    hinted: bool,
    next_poll: Instant,
    /// The broker failed: no round trip before this.
    blocked_until: Option<Instant>,
    /// While there is plenty to do, finished attempts gather until this.
    gather_until: Option<Instant>,
    next_renewal: Instant,
    renew_all_now: bool,
    renewals_fail: bool,
    flush_at: Option<Instant>,
    drain: Option<Drain>,
}

/// A warm shutdown under way.
struct Drain {
    grace_until: Instant,
    stopped: bool,
}

impl Conductor {
    pub(crate) fn new(broker: Arc<dyn Broker>, config: WorkerConfig, wires: Wires) -> Self {
        let Wires { line, bells, finished, wishes, found, vitals } = wires;
        let now = Instant::now();
        let lease = Duration::from_millis(config.lease_ms);
        Self {
            queues: QueueSet::new(&config.queues),
            book: Book::new(lease),
            outbox: Outbox::new(),
            pace: Pace::new(config.max_ahead),
            retries: Retries::default(),
            next_seq: 0,
            hinted: true,
            next_poll: now,
            blocked_until: None,
            gather_until: None,
            next_renewal: now + lease / 3,
            renew_all_now: false,
            renewals_fail: false,
            flush_at: None,
            drain: None,
            broker,
            config,
            line,
            bells,
            finished,
            wishes,
            found,
            vitals,
        }
    }

    /// Conducts until drained or stopped.
    pub(crate) async fn run(mut self) {
        // Listening starts before the first claim: what comes between the two is not missed.
        let mut work = Hints::new(self.broker.clone(), Topic::Work);
        let mut cancels = Hints::new(self.broker.clone(), Topic::Cancel);
        work.connect().await;
        cancels.connect().await;
        let mut round_trip: Option<RoundTrip> = None;
        let mut renewal: Option<Renewal> = None;
        let mut arrived: Vec<Finished> = Vec::new();
        loop {
            if *self.wishes.borrow() == Wish::Stop || self.is_drained(round_trip.is_some()) {
                return;
            }
            let now = Instant::now();
            self.keep_time(now);
            if renewal.is_none() {
                renewal = self.start_renewal(now);
            }
            if round_trip.is_none() && !self.is_gathering(now) {
                self.collect(&mut arrived);
                round_trip = self.start_round_trip(now);
            }
            let gathering = self.gather_until.is_some();
            let wake = tokio::time::sleep_until(self.next_wake(now, round_trip.is_some(), renewal.is_some()).into());
            tokio::select! {
                biased;
                wish = self.wishes.changed() => match wish {
                    Ok(()) => self.follow_wish(),
                    // Nobody could ever wait for this worker or end it.
                    Err(_) => return,
                },
                done = poll_some(&mut round_trip) => {
                    round_trip = None;
                    self.round_trip_done(done);
                }
                (renewing, answer) = poll_some(&mut renewal) => {
                    renewal = None;
                    self.renewal_done(renewing, answer);
                }
                // Not while a round trip is under way: then what finishes makes the next batch, and wakes nobody.
                n = self.finished.recv_many(&mut arrived, MAX_CLAIM as usize),
                    if round_trip.is_none() && !gathering => if n == 0 { return },
                () = self.bells.refill.notified(), if gathering => self.gather_until = None,
                () = self.bells.report.notified() => self.flush_at = self.flush_at.or(Some(now + FLUSH)),
                found = self.found.changed() => if found.is_ok() { self.learn_queues() },
                signal = work.next() => self.work_hint(&signal),
                signal = cancels.next() => self.cancel_hint(&signal),
                () = wake => {}
            }
        }
    }

    // ---- time

    /// What is due by the clock alone.
    fn keep_time(&mut self, now: Instant) {
        if self.blocked_until.is_some_and(|until| until <= now) {
            self.blocked_until = None;
        }
        let stopped = self.book.stop_expired(now, self.margin());
        if stopped > 0 {
            tracing::warn!(worker = %self.config.id, stopped, "leases were not renewed in time, their guests are stopped");
        }
        if self.line.stalled_for() >= STALL {
            self.pace.stalled();
            self.give_back();
        }
        if let Some(drain) = &mut self.drain
            && !drain.stopped
            && drain.grace_until <= now
        {
            drain.stopped = true;
            let stopped = self.book.release_all();
            if stopped > 0 {
                tracing::info!(worker = %self.config.id, stopped, "grace time is over, running jobs are handed back");
            }
        }
    }

    /// A guest is stopped so long before its lease ends: two epoch ticks and a slow scheduler.
    fn margin(&self) -> Duration {
        Duration::from_millis((self.config.lease_ms / 10).clamp(100, 1_500))
    }

    /// When to look again if nothing happens. Idle, that is the poll and nothing else.
    fn next_wake(&self, now: Instant, round_trip: bool, renewal: bool) -> Instant {
        let poll = if round_trip || self.drain.is_some() { now + Duration::from_secs(1) } else { self.next_poll };
        // Blocked or gathering, a poll that is due does not happen before that ends.
        let mut wake = self.blocked_until.or(self.gather_until).unwrap_or(poll);
        let mut sooner = |at: Instant| wake = wake.min(at);
        if !self.book.is_empty() {
            if !renewal {
                sooner(self.next_renewal);
            }
            sooner(now + STALL);
        }
        if let (Some(at), false) = (self.flush_at, renewal) {
            sooner(at);
        }
        if let Some(Drain { grace_until, stopped: false }) = self.drain {
            sooner(grace_until);
        }
        wake.max(now)
    }

    // ---- claim and settle

    /// True while finished attempts should gather: there is plenty to do, and a bell rings when that ends.
    fn is_gathering(&mut self, now: Instant) -> bool {
        if self.gather_until.is_some_and(|until| until <= now) {
            self.gather_until = None;
        }
        self.gather_until.is_some()
    }

    /// Takes what finished.
    fn collect(&mut self, arrived: &mut Vec<Finished>) {
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

    /// Deliveries to ask for now.
    fn wanted(&mut self) -> u32 {
        if self.drain.is_some() {
            return 0;
        }
        let ahead = self.pace.ahead(self.config.guest_threads);
        self.line.set_low_water(ahead as usize / 2);
        (self.config.concurrency + ahead).saturating_sub(self.book.open()).min(MAX_CLAIM)
    }

    fn start_round_trip(&mut self, now: Instant) -> Option<RoundTrip> {
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
        let queues = self.queues.next();
        let claim = (wanted > 0 && !queues.is_empty()).then(|| Claim {
            worker: self.config.id.clone(),
            queues,
            max: wanted,
            lease_ms: self.config.lease_ms,
            token_seed: token_seed(),
        });
        if wanted > 0 {
            self.hinted = false;
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

    fn round_trip_done(&mut self, done: RoundTripDone) {
        let RoundTripDone { batch, claimed, started, answer } = done;
        let (settled, deliveries) = match answer {
            Ok(answer) => answer,
            Err(error) => return self.round_trip_failed(batch, claimed, &error),
        };
        if self.retries.succeeded() {
            tracing::info!(worker = %self.config.id, "the broker answers again");
        }
        self.outbox.succeeded();
        for (active, answer) in batch.actives().zip(&settled) {
            match answer {
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
        if !deliveries.is_empty() {
            self.hand_out(deliveries, started);
        }
        let ahead = self.pace.ahead(self.config.guest_threads) as usize;
        // Below that there are too few to gather for.
        let plenty = ahead >= 32 && self.line.len() > ahead / 2;
        self.gather_until =
            (plenty && self.drain.is_none()).then(|| Instant::now() + Duration::from_millis(self.config.gather_ms));
        self.vitals.set_running(self.book.open().saturating_sub(self.line.len() as u32));
    }

    fn round_trip_failed(&mut self, batch: Batch, claimed: u32, error: &BrokerError) {
        if self.retries.is_first() {
            tracing::warn!(worker = %self.config.id, %error, "the broker failed; trying again until it answers");
        }
        self.hinted |= claimed > 0;
        if error.is_transient() || batch.settles.is_empty() {
            self.outbox.unreached(batch);
        } else {
            self.outbox.failed(batch, &mut self.book);
        }
        self.blocked_until = Some(Instant::now() + Duration::from_millis(self.retries.next_ms(random_u64())));
    }

    fn hand_out(&mut self, deliveries: Vec<Delivery>, since: Instant) {
        let actives: Vec<Arc<Active>> = deliveries
            .into_iter()
            .map(|delivery| {
                self.next_seq += 1;
                let active = Arc::new(Active::new(self.next_seq, delivery, self.bells.clone()));
                self.book.add(active.clone(), since);
                active
            })
            .collect();
        self.line.push(actives);
    }

    /// Gives back what no slot has taken.
    fn give_back(&mut self) {
        for active in self.line.take_back() {
            if self.book.ended(active.seq) {
                let telling = self.book.is_telling(active.seq);
                self.outbox.push(Finished::released(active), telling);
            }
        }
        self.gather_until = None;
    }

    // ---- renew

    fn start_renewal(&mut self, now: Instant) -> Option<Renewal> {
        let due = self.next_renewal <= now;
        let flush = self.flush_at.is_some_and(|at| at <= now);
        if !(due || flush || self.renew_all_now) {
            return None;
        }
        let lease = Duration::from_millis(self.config.lease_ms);
        let all = std::mem::take(&mut self.renew_all_now);
        if due {
            self.next_renewal = now + lease / 3;
        }
        self.flush_at = None;
        self.bells.answer();
        // On a flush only those go along whose time has come anyway.
        let renewing = self.book.renewing(now, lease / 6, all)?;
        let (broker, lease_ms) = (self.broker.clone(), self.config.lease_ms);
        Some(Box::pin(async move {
            let answer = tokio::time::timeout(lease / 3, broker.renew(lease_ms, &renewing.renewals)).await;
            (renewing, answer.unwrap_or_else(|_| Err(BrokerError::Unavailable("no answer in time".into()))))
        }))
    }

    fn renewal_done(&mut self, renewing: Renewing, answer: Result<Vec<LeaseState>, BrokerError>) {
        match answer {
            Ok(states) => {
                self.book.renewed(&renewing, &states);
                self.renewals_fail = false;
            }
            Err(error) => {
                if !std::mem::replace(&mut self.renewals_fail, true) {
                    tracing::warn!(worker = %self.config.id, %error, "leases could not be renewed; trying again");
                }
                let pause = Duration::from_millis((self.config.lease_ms / 15).clamp(50, 1_000));
                self.next_renewal = Instant::now() + pause;
                self.book.not_renewed(renewing);
            }
        }
        self.outbox.told();
    }

    // ---- hints and wishes

    fn work_hint(&mut self, signal: &Signal) {
        match signal {
            Signal::Work(queues) => self.hinted |= self.queues.heard(queues),
            _ => self.hinted = true,
        }
    }

    fn learn_queues(&mut self) {
        let found = self.found.borrow_and_update().clone();
        self.hinted |= self.queues.heard(&found);
    }

    fn cancel_hint(&mut self, signal: &Signal) {
        self.renew_all_now |= match signal {
            Signal::Cancel(ids) => self.book.has_any(ids),
            _ => !self.book.is_empty(),
        };
    }

    fn follow_wish(&mut self) {
        if *self.wishes.borrow_and_update() == Wish::Drain && self.drain.is_none() {
            let grace = Duration::from_millis(self.config.grace_ms);
            let running = self.book.open();
            tracing::info!(worker = %self.config.id, running, grace_ms = self.config.grace_ms, "draining");
            self.vitals.set_draining();
            self.drain = Some(Drain { grace_until: Instant::now() + grace, stopped: false });
            self.give_back();
        }
    }

    fn is_drained(&self, under_way: bool) -> bool {
        let Some(drain) = &self.drain else { return false };
        if self.book.is_empty() && !under_way {
            return true;
        }
        let given_up = drain.grace_until + LAST_SETTLES <= Instant::now();
        if given_up {
            tracing::warn!(worker = %self.config.id, "the broker did not take the last outcomes; leases will expire");
        }
        given_up
    }
}

/// Polls the future that is there; waits for ever for one that is not.
async fn poll_some<T>(slot: &mut Option<Pin<Box<dyn Future<Output = T> + Send>>>) -> T {
    match slot {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// 128 random bits, so that no two deliveries ever share a token.
fn token_seed() -> Token {
    let seed = format!("{:016x}{:016x}", random_u64(), random_u64());
    Token::new(seed).expect("hex digits are a token")
}
