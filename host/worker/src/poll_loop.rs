//! The poll loop: claims, hands to the slots, renews and settles, on the caller's runtime.
//!
//! Invariants: at most one claim-or-settle and at most one renewal are under way; renewals never wait for guests, nor
//! for a settle; a hint is a reason to look and never the truth; when idle nothing waits for company.

mod lifecycle;
mod renewal;
mod round_trip;

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;
use umbel_broker::{Broker, Signal, Topic, WorkerOrder};
use umbel_model::QueueName;

use crate::{
    WorkerConfig,
    active::Wakers,
    autoscale::Scale,
    completion::Finished,
    heartbeat::Vitals,
    hints::Hints,
    leases::LeaseTable,
    outbox::Outbox,
    prefetch::{Prefetch, Retries},
    queues::QueueSet,
    slots::{LocalQueue, SlotPool},
    workflow_requests::NodeRates,
};

pub(crate) use lifecycle::Command;
use lifecycle::Drain;
pub use lifecycle::End;

use renewal::Renewal;
use round_trip::RoundTrip;

/// Deliveries of one claim at most.
const MAX_CLAIM: u32 = 500;
/// Reports wait at most this long before they are told.
const FLUSH: Duration = Duration::from_millis(250);
/// Claimed work that no slot took for so long is given back: five times what is claimed ahead.
const STALL: Duration = Duration::from_millis(100);
/// Between two looks at leases that nobody renewed.
const LEASE_LOOK: Duration = Duration::from_millis(250);
/// What connects a poll loop with the rest of its worker.
pub(crate) struct Channels {
    pub(crate) pool: SlotPool,
    pub(crate) wakers: Arc<Wakers>,
    pub(crate) finished: mpsc::UnboundedReceiver<Finished>,
    pub(crate) commands: watch::Receiver<Command>,
    pub(crate) orders: watch::Receiver<WorkerOrder>,
    pub(crate) vitals: Arc<Vitals>,
}

pub(crate) struct PollLoop {
    broker: Arc<dyn Broker>,
    config: WorkerConfig,
    local_queue: Arc<LocalQueue>,
    wakers: Arc<Wakers>,
    /// How fast guests add jobs.
    rates: Arc<NodeRates>,
    finished: mpsc::UnboundedReceiver<Finished>,
    /// What the owner wants, and what of it was followed.
    commands: watch::Receiver<Command>,
    followed: Command,
    /// The one that was followed last.
    last_order: WorkerOrder,
    orders: watch::Receiver<WorkerOrder>,
    vitals: Arc<Vitals>,
    pool: SlotPool,
    /// Attempts at once.
    slots: u32,
    scale: Scale,
    /// When the number of slots and the memory are looked at next.
    next_tick: Instant,
    queues: QueueSet,
    found: (watch::Sender<Vec<QueueName>>, watch::Receiver<Vec<QueueName>>),
    /// Looks for queues while they are not named.
    look_out: Option<AbortOnDropHandle<()>>,
    book: LeaseTable,
    outbox: Outbox,
    pace: Prefetch,
    /// Deliveries to hold beyond the free slots, as of the last round trip.
    ahead: u32,
    retries: Retries,
    next_seq: u64,
    /// There may be work: a hint, or the last claim was full.
    hinted: bool,
    next_poll: Instant,
    /// The broker failed: no round trip before this.
    blocked_until: Option<Instant>,
    /// A claim failed by its own fault: none before this, while settles go on.
    no_claim_until: Option<Instant>,
    claim_retries: Retries,
    /// While there is plenty to do, finished attempts gather until this.
    gather_until: Option<Instant>,
    next_renewal: Instant,
    renew_all_now: bool,
    renewals_fail: bool,
    flush_at: Option<Instant>,
    /// Nothing is claimed until that is taken back.
    paused: bool,
    /// A shutdown under way.
    drain: Option<Drain>,
}

impl PollLoop {
    pub(crate) fn new(broker: Arc<dyn Broker>, config: WorkerConfig, channels: Channels) -> Self {
        let Channels { pool, wakers, finished, commands, orders, vitals } = channels;
        let now = Instant::now();
        let lease = Duration::from_millis(config.lease_ms);
        let (least, most, slots) = config.slots();
        if most > pool.most {
            tracing::warn!(worker = %config.id, most, slots = pool.most, "it will not have more slots than its sandbox");
        }
        let scale = Scale::new(least.min(pool.most), most.min(pool.most));
        let mut this = Self {
            queues: QueueSet::new(&config.queues, &config.exclude),
            book: LeaseTable::new(lease),
            outbox: Outbox::new(),
            pace: Prefetch::new(config.max_ahead),
            ahead: 0,
            retries: Retries::default(),
            next_seq: 0,
            hinted: true,
            next_poll: now,
            blocked_until: None,
            no_claim_until: None,
            claim_retries: Retries::default(),
            gather_until: None,
            next_renewal: now,
            renew_all_now: false,
            renewals_fail: false,
            flush_at: None,
            paused: false,
            drain: None,
            broker,
            config,
            local_queue: pool.queue.clone(),
            wakers,
            rates: Arc::default(),
            finished,
            commands,
            followed: Command::default(),
            last_order: WorkerOrder::default(),
            orders,
            vitals,
            pool,
            slots: 0,
            scale,
            next_tick: now,
            found: watch::channel(Vec::new()),
            look_out: None,
        };
        this.set_slots(slots);
        this.serve_queues();
        this
    }

    /// Conducts until drained or stopped.
    pub(crate) async fn run(mut self) -> End {
        // Listening starts before the first claim: what comes between the two is not missed.
        let mut work = Hints::new(self.broker.clone(), Topic::Work);
        let mut cancels = Hints::new(self.broker.clone(), Topic::Cancel);
        work.connect().await;
        cancels.connect().await;
        let mut round_trip: Option<RoundTrip> = None;
        let mut renewal: Option<Renewal> = None;
        let mut arrived: Vec<Finished> = Vec::new();
        loop {
            if self.commands.borrow().stop {
                return End::Requested;
            }
            if let Some(end) = self.drained(round_trip.is_some()) {
                return end;
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
                command = self.commands.changed() => match command {
                    Ok(()) => self.follow_command(),
                    // Nobody could ever wait for this worker or end it.
                    Err(_) => return End::Requested,
                },
                Ok(()) = self.orders.changed() => self.follow_order(),
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
                    if round_trip.is_none() && !gathering => if n == 0 { return End::Died },
                () = self.wakers.refill.notified(), if gathering => self.gather_until = None,
                () = self.wakers.report.notified() => self.flush_at = self.flush_at.or(Some(now + FLUSH)),
                // Nobody looks for queues when they were named: then this never happens.
                Ok(()) = self.found.1.changed() => self.learn_queues(),
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
        if self.no_claim_until.is_some_and(|until| until <= now) {
            self.no_claim_until = None;
        }
        let stopped = self.book.stop_expired(now, self.margin());
        if stopped > 0 {
            tracing::warn!(worker = %self.config.id, stopped, "leases were not renewed in time, their guests are stopped");
        }
        if self.local_queue.still_since().is_some_and(|since| since + STALL <= now) {
            self.pace.stalled();
            self.give_back();
        }
        self.keep_drain(now);
        self.note_held();
        if self.next_tick <= now {
            self.tick(now);
        }
    }

    /// A guest is stopped so long before its lease ends: two epoch ticks and a slow scheduler.
    fn margin(&self) -> Duration {
        Duration::from_millis((self.config.lease_ms / 10).clamp(100, 1_500))
    }

    /// When to look again if nothing happens. Idle, that is the poll and nothing else.
    fn next_wake(&self, now: Instant, round_trip: bool, renewal: bool) -> Instant {
        let claims = !(round_trip || self.paused || self.drain.is_some());
        let poll = if claims { self.no_claim_until.unwrap_or(self.next_poll) } else { now + Duration::from_secs(1) };
        // Blocked or gathering, a poll that is due does not happen before that ends.
        let mut wake = self.blocked_until.or(self.gather_until).unwrap_or(poll);
        let mut sooner = |at: Instant| wake = wake.min(at);
        if !self.book.is_empty() {
            if !renewal {
                sooner(self.next_renewal);
            }
            sooner(now + LEASE_LOOK);
        }
        if let Some(since) = self.local_queue.still_since() {
            sooner(since + STALL);
        }
        if let (Some(at), false) = (self.flush_at, renewal) {
            sooner(at);
        }
        if let Some(Drain { grace_until: Some(until), stopped: false, .. }) = self.drain {
            sooner(until);
        }
        if self.ticks() {
            sooner(self.next_tick);
        }
        wake.max(now)
    }

    // ---- hints

    fn work_hint(&mut self, signal: &Signal) {
        match signal {
            Signal::Work(queues) => self.hinted |= self.queues.heard(queues),
            _ => self.hinted = true,
        }
    }

    fn learn_queues(&mut self) {
        let found = self.found.1.borrow_and_update().clone();
        self.hinted |= self.queues.heard(&found);
    }

    fn cancel_hint(&mut self, signal: &Signal) {
        self.renew_all_now |= match signal {
            Signal::Cancel(ids) => self.book.has_any(ids),
            _ => !self.book.is_empty(),
        };
    }
}

/// Polls the future that is there; waits for ever for one that is not.
async fn poll_some<T>(slot: &mut Option<Pin<Box<dyn Future<Output = T> + Send>>>) -> T {
    match slot {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
