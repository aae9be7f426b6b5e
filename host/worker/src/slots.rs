//! The slots: long-lived tasks on the guests' own threads that take deliveries from the local queue and run them one by one.
//!
//! Invariants: a delivery that was pushed is either run by exactly one slot or taken back by `take_back`; a slot
//! takes the next delivery itself, so the poll loop is not on the way between two jobs; no attempt ends its slot; there
//! are as many slots as were set, plus those that still run a delivery from before the number was lowered.

use std::{
    collections::VecDeque,
    ops::ControlFlow,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

use tokio::sync::{Notify, mpsc};
use umbel_broker::LimitedTenants;

use crate::{
    active_delivery::{ActiveDelivery, Wakers},
    attempt::Attempts,
    completion::Finished,
    reserve::Reserve,
};

/// Claimed deliveries that no slot has taken.
pub(crate) struct LocalQueue {
    waiting: Mutex<Waiting>,
    /// Slots that wait for a delivery.
    idle: AtomicU32,
    arrived: Notify,
    wakers: Arc<Wakers>,
}

struct Waiting {
    deliveries: VecDeque<Arc<ActiveDelivery>>,
    /// The poll loop is called when so many are left.
    low_water: usize,
    last_taken: Instant,
    reserve: Reserve,
    /// A slot left deliveries of tenants that may not have it.
    is_held_back: bool,
    /// Slots that there should be, and that there are.
    wanted: u32,
    alive: u32,
}

impl Waiting {
    /// Takes the first delivery whose tenant may have one more slot.
    fn take_next(&mut self, now: Instant) -> Option<Arc<ActiveDelivery>> {
        let slots = self.wanted;
        let admits = |active: &Arc<ActiveDelivery>| self.reserve.admits(&active.delivery.tenant, slots, now);
        let first = self.deliveries.iter().position(admits);
        self.is_held_back = first != Some(0) && !self.deliveries.is_empty();
        let active = self.deliveries.remove(first?)?;
        self.reserve.begin(&active.delivery.tenant, active.seq, now);
        Some(active)
    }
}

/// The next action of a slot: run a delivery, end because there are more slots than there should be, or wait.
type Next = ControlFlow<Option<Arc<ActiveDelivery>>>;

impl LocalQueue {
    pub(crate) fn new(wakers: Arc<Wakers>) -> Self {
        let waiting = Waiting {
            deliveries: VecDeque::new(),
            low_water: 0,
            last_taken: Instant::now(),
            reserve: Reserve::default(),
            is_held_back: false,
            wanted: 0,
            alive: 0,
        };
        Self { waiting: Mutex::new(waiting), idle: AtomicU32::new(0), arrived: Notify::new(), wakers }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting().deliveries.len()
    }

    /// Hands deliveries to the slots, and wakes no more slots than there is work for.
    pub(crate) fn push(&self, deliveries: impl IntoIterator<Item = Arc<ActiveDelivery>>) {
        let mut waiting = self.waiting();
        if waiting.deliveries.is_empty() {
            waiting.last_taken = Instant::now();
        }
        waiting.deliveries.extend(deliveries);
        let count = u32::try_from(waiting.deliveries.len()).unwrap_or(u32::MAX);
        drop(waiting);
        for _ in 0..count.min(self.idle.load(Ordering::SeqCst)) {
            self.arrived.notify_one();
        }
    }

    pub(crate) fn set_low_water(&self, low_water: usize) {
        self.waiting().low_water = low_water;
    }

    /// Whether no more than the low water is left.
    pub(crate) fn is_low(&self) -> bool {
        let waiting = self.waiting();
        waiting.deliveries.len() <= waiting.low_water
    }

    /// Everything that no slot has taken, to be given back to the broker.
    pub(crate) fn take_back(&self) -> Vec<Arc<ActiveDelivery>> {
        self.waiting().deliveries.drain(..).collect()
    }

    /// When a delivery was last taken, while others wait. None when none waits.
    pub(crate) fn stalled_since(&self) -> Option<Instant> {
        let waiting = self.waiting();
        (!waiting.deliveries.is_empty()).then_some(waiting.last_taken)
    }

    /// The tenants of which a claim must not take more than so many.
    pub(crate) fn limited(&self, now: Instant) -> LimitedTenants {
        let waiting = self.waiting();
        let claimed = waiting.deliveries.iter().map(|active| &active.delivery.tenant);
        waiting.reserve.limited(claimed, waiting.wanted, now)
    }

    /// Whether long attempts fill all slots but the reserve.
    pub(crate) fn is_reserve_reached(&self, now: Instant) -> bool {
        let waiting = self.waiting();
        waiting.reserve.is_reached(waiting.wanted, now)
    }

    /// An attempt ended on its slot.
    fn ended(&self, active: &ActiveDelivery) {
        self.waiting().reserve.end(&active.delivery.tenant, active.seq, Instant::now());
    }

    /// From now on there should be so many slots. Answers how many must be started; those that are too many end by
    /// themselves.
    fn resize(&self, slots: u32) -> u32 {
        let mut waiting = self.waiting();
        waiting.wanted = slots;
        let missing = slots.saturating_sub(waiting.alive);
        waiting.alive += missing;
        drop(waiting);
        // Those that wait look again.
        self.arrived.notify_waiters();
        missing
    }

    fn next(&self) -> Next {
        let mut waiting = self.waiting();
        if waiting.alive > waiting.wanted {
            waiting.alive -= 1;
            if !waiting.deliveries.is_empty() {
                // It may have been woken for one of them.
                self.arrived.notify_one();
            }
            return Next::Break(None);
        }
        let now = Instant::now();
        let Some(active) = waiting.take_next(now) else { return Next::Continue(()) };
        waiting.last_taken = now;
        if waiting.is_held_back {
            // What has ended since may have made room for it.
            self.arrived.notify_one();
        }
        let low = waiting.deliveries.len() == waiting.low_water;
        drop(waiting);
        if low {
            self.wakers.refill.notify_one();
        }
        Next::Break(Some(active))
    }

    /// The next delivery; none when this slot should end.
    async fn take(&self) -> Option<Arc<ActiveDelivery>> {
        loop {
            if let Next::Break(next) = self.next() {
                return next;
            }
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            // Registered and counted before the second look: a push between the look and the wait wakes this slot.
            arrived.as_mut().enable();
            self.idle.fetch_add(1, Ordering::SeqCst);
            let next = self.next();
            if next.is_continue() {
                arrived.await;
            }
            self.idle.fetch_sub(1, Ordering::SeqCst);
            if let Next::Break(next) = next {
                return next;
            }
        }
    }
}

/// One slot: runs deliveries until the poll loop is gone, or there should be fewer slots.
async fn slot(queue: Arc<LocalQueue>, attempts: Arc<Attempts>, finished: mpsc::UnboundedSender<Finished>) {
    while let Some(active) = queue.take().await {
        let done = attempts.run_caught(active).await;
        queue.ended(&done.active);
        // Unbounded in type only: never more than the deliveries held, which the poll loop limits.
        if finished.send(done).is_err() {
            return;
        }
        // Nothing above may have waited: leave the thread to other guests now and then.
        tokio::task::consume_budget().await;
    }
}

/// Starts and ends slots.
pub(crate) struct SlotPool {
    pub(crate) queue: Arc<LocalQueue>,
    pub(crate) attempts: Arc<Attempts>,
    pub(crate) finished: mpsc::UnboundedSender<Finished>,
    /// Where guests run.
    pub(crate) threads: tokio::runtime::Handle,
    /// Slots that the sandbox has.
    pub(crate) most: u32,
}

impl SlotPool {
    /// From now on there are so many slots, or as many as the sandbox has; answers how many.
    pub(crate) fn resize(&self, slots: u32) -> u32 {
        let slots = slots.min(self.most);
        for _ in 0..self.queue.resize(slots) {
            self.threads.spawn(slot(self.queue.clone(), self.attempts.clone(), self.finished.clone()));
        }
        slots
    }
}

/// The guests' own threads. Stopped without waiting when dropped.
pub(crate) struct GuestThreads(Option<tokio::runtime::Runtime>);

impl GuestThreads {
    pub(crate) fn start(threads: u32) -> Result<Self, crate::Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads as usize)
            .max_blocking_threads(4)
            .thread_name("umbel-guest")
            .on_thread_start(crate::operating_system::give_way)
            // A poll here is as long as a tick of the epoch, and not the microseconds that tokio's defaults are made for: an
            // attempt that begins, and a timer, must not wait for sixty of them.
            .global_queue_interval(2)
            .event_interval(8)
            .enable_time()
            .build()
            .map_err(crate::Error::Threads)?;
        Ok(Self(Some(runtime)))
    }

    pub(crate) fn handle(&self) -> tokio::runtime::Handle {
        self.0.as_ref().expect("the runtime is there until it is dropped").handle().clone()
    }
}

impl Drop for GuestThreads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of the slots that take from `queue` have ended.
    async fn ended(queue: &Arc<LocalQueue>, slots: u32, wanted: u32) -> usize {
        let taking: Vec<_> = (0..slots)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.take().await.is_none() })
            })
            .collect();
        while queue.idle.load(Ordering::SeqCst) < slots {
            tokio::task::yield_now().await;
        }
        queue.resize(wanted);
        while queue.waiting().alive > wanted {
            tokio::task::yield_now().await;
        }
        tokio::task::yield_now().await;
        taking.iter().filter(|task| task.is_finished()).count()
    }

    /// On one thread, beside twenty that are always busy.
    #[test]
    fn an_attempt_that_begins_does_not_wait_for_many_turns_of_those_that_run() {
        let threads = GuestThreads::start(1).unwrap();
        let (turns, (begun, seen)) = (Arc::new(AtomicU32::new(0)), std::sync::mpsc::channel());
        for _ in 0..20 {
            let (turns, begun, handle) = (turns.clone(), begun.clone(), threads.handle());
            threads.handle().spawn(async move {
                loop {
                    let turn = turns.fetch_add(1, Ordering::SeqCst);
                    if turn == 1_000 {
                        let (turns, begun) = (turns.clone(), begun.clone());
                        let attempt = async move { begun.send(turns.load(Ordering::SeqCst) - turn) };
                        // From outside, as the poll loop does it, while this turn lasts.
                        std::thread::scope(|scope| scope.spawn(|| handle.spawn(attempt)).join().map(drop)).unwrap();
                    }
                    tokio::task::yield_now().await;
                }
            });
        }
        let waited = seen.recv().unwrap();
        assert!(waited < 10, "{waited} turns");
    }

    #[tokio::test]
    async fn idle_slots_that_are_too_many_end_and_new_ones_are_asked_for() {
        let queue = Arc::new(LocalQueue::new(Arc::default()));
        assert_eq!(queue.resize(5), 5);
        assert_eq!(ended(&queue, 5, 2).await, 3);
        assert_eq!(queue.resize(4), 2);
        assert_eq!((queue.resize(4), queue.resize(1)), (0, 0));
    }
}
