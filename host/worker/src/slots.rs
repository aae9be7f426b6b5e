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
    time::{Duration, Instant},
};

use tokio::{
    runtime::Handle,
    sync::{Notify, mpsc},
};
use umbel_broker::LimitedTenants;
use umbel_model::TenantId;

use crate::{
    active_delivery::{ActiveDelivery, Wakers},
    attempt::Attempts,
    completion::Finished,
    guest_threads::watched,
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
    fn take_next(&mut self, now: Instant) -> Option<Taken> {
        let slots = self.wanted;
        let admits = |active: &Arc<ActiveDelivery>| self.reserve.admits(&active.delivery.tenant, slots, now);
        let first = self.deliveries.iter().position(admits);
        self.is_held_back = first != Some(0) && !self.deliveries.is_empty();
        let active = self.deliveries.remove(first?)?;
        let tenant = &active.delivery.tenant;
        self.reserve.begin(tenant, active.seq, now);
        let is_apart = self.reserve.holds_threads(tenant, now);
        Some(Taken { active, is_apart })
    }
}

/// A delivery that a slot must run.
struct Taken {
    active: Arc<ActiveDelivery>,
    /// Not on the threads of the others: guests of its tenant hold threads.
    is_apart: bool,
}

/// The next action of a slot: run a delivery, end because there are more slots than there should be, or wait.
type Next = ControlFlow<Option<Taken>>;

impl LocalQueue {
    pub(crate) fn new(wakers: Arc<Wakers>, reserve: Reserve) -> Self {
        let waiting = Waiting {
            deliveries: VecDeque::new(),
            low_water: 0,
            last_taken: Instant::now(),
            reserve,
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

    /// A guest of this tenant held a thread for so long.
    fn held_thread(&self, tenant: &TenantId, held: Duration) {
        self.waiting().reserve.held_thread(tenant, held, Instant::now());
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
        let Some(taken) = waiting.take_next(now) else { return Next::Continue(()) };
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
        Next::Break(Some(taken))
    }

    /// The next delivery; none when this slot should end.
    async fn take(&self) -> Option<Taken> {
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

/// One slot: runs deliveries until the poll loop is gone, or there should be fewer slots. `apart` are the threads for tenants
/// whose guests hold threads.
async fn slot<F: Future<Output = Finished> + Send + 'static>(
    queue: Arc<LocalQueue>,
    apart: Handle,
    run: impl Fn(Arc<ActiveDelivery>) -> F,
    finished: mpsc::UnboundedSender<Finished>,
) {
    while let Some(Taken { active, is_apart }) = queue.take().await {
        let (seen, tenant) = (queue.clone(), active.delivery.tenant.clone());
        let attempt = watched(run(active), move |held| seen.held_thread(&tenant, held));
        let done = match is_apart {
            false => attempt.await,
            true => match apart.spawn(attempt).await {
                Ok(done) => done,
                // Panics are caught: those threads were stopped, and with them these.
                Err(_) => return,
            },
        };
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
    /// Where guests run, and where those of tenants whose guests hold threads do.
    pub(crate) threads: Handle,
    pub(crate) apart: Handle,
    /// Slots that the sandbox has.
    pub(crate) most: u32,
}

impl SlotPool {
    /// From now on there are so many slots, or as many as the sandbox has; answers how many.
    pub(crate) fn resize(&self, slots: u32) -> u32 {
        let slots = slots.min(self.most);
        for _ in 0..self.queue.resize(slots) {
            let attempts = self.attempts.clone();
            let run = move |active| {
                let attempts = attempts.clone();
                async move { attempts.run_caught(active).await }
            };
            self.threads.spawn(slot(self.queue.clone(), self.apart.clone(), run, self.finished.clone()));
        }
        slots
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Condvar;

    use umbel_model::WorkerId;

    use super::*;
    use crate::guest_threads::GuestThreads;

    /// Of a wait that only broken code uses up.
    const PATIENCE: Duration = Duration::from_secs(20);

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

    #[tokio::test]
    async fn idle_slots_that_are_too_many_end_and_new_ones_are_asked_for() {
        let queue = Arc::new(LocalQueue::new(Arc::default(), Reserve::default()));
        assert_eq!(queue.resize(5), 5);
        assert_eq!(ended(&queue, 5, 2).await, 3);
        assert_eq!(queue.resize(4), 2);
        assert_eq!((queue.resize(4), queue.resize(1)), (0, 0));
    }

    /// On one thread of each kind.
    #[test]
    fn an_attempt_of_a_quiet_tenant_does_not_wait_for_a_thread_that_a_guest_holds() {
        let of = |seq, tenant: &TenantId| {
            let mut active = ActiveDelivery::for_test(seq, "{}");
            Arc::get_mut(&mut active).unwrap().delivery.tenant = tenant.clone();
            active
        };
        let [holds, quiet] = ["holds", "quiet"].map(|name| TenantId::new(name).unwrap());
        let threads = GuestThreads::start(1).unwrap();
        let queue = Arc::new(LocalQueue::new(Arc::default(), Reserve::default()));
        let (finished, mut done) = mpsc::unbounded_channel();
        let (ended, worker) = (Arc::new((Mutex::new(false), Condvar::new())), WorkerId::new("w").unwrap());
        for _ in 0..queue.resize(4) {
            let (holder, ended, worker, marked) = (holds.clone(), ended.clone(), worker.clone(), queue.clone());
            let run = move |active: Arc<ActiveDelivery>| {
                let (ended, worker) = (ended.clone(), worker.clone());
                let holds = active.delivery.tenant == holder;
                if active.seq == 0 {
                    marked.held_thread(&holder, PATIENCE);
                }
                async move {
                    let (has_ended, changed) = &*ended;
                    if holds && active.seq > 0 {
                        // The thread, and not only the attempt, waits for the quiet one.
                        let has_ended = has_ended.lock().unwrap();
                        drop(changed.wait_timeout_while(has_ended, PATIENCE, |has_ended| !*has_ended).unwrap());
                    } else if !holds {
                        *has_ended.lock().unwrap() = true;
                        changed.notify_all();
                    }
                    Finished::panicked(active, &worker)
                }
            };
            threads.usual().spawn(slot(queue.clone(), threads.apart(), run, finished.clone()));
        }
        queue.push([of(0, &holds)]);
        assert_eq!(done.blocking_recv().unwrap().active.seq, 0);
        queue.push([1, 2, 3].map(|seq| of(seq, &holds)));
        queue.push([of(4, &quiet)]);
        let order: Vec<_> = (0..4).map(|_| done.blocking_recv().unwrap().active.seq).collect();
        assert_eq!(order[0], 4, "{order:?}");
    }
}
