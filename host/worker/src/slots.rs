//! The slots: long-lived tasks on the guests' own threads that take claimed deliveries and run them one by one.
//!
//! Invariants: a delivery that was pushed is either run by exactly one slot or taken back by `take_back`; a slot
//! takes the next delivery itself, so the conductor is not on the way between two jobs; no attempt ends its slot.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

use tokio::sync::{Notify, mpsc};

use crate::{
    active::{Active, Bells},
    attempt::{Attempts, Finished},
};

/// Claimed deliveries that no slot has taken.
pub(crate) struct Line {
    waiting: Mutex<Waiting>,
    /// Slots that wait for a delivery.
    idle: AtomicU32,
    arrived: Notify,
    bells: Arc<Bells>,
}

struct Waiting {
    deliveries: VecDeque<Arc<Active>>,
    /// The conductor is called when so many are left.
    low_water: usize,
    last_taken: Instant,
}

impl Line {
    pub(crate) fn new(bells: Arc<Bells>) -> Self {
        let waiting = Waiting { deliveries: VecDeque::new(), low_water: 0, last_taken: Instant::now() };
        Self { waiting: Mutex::new(waiting), idle: AtomicU32::new(0), arrived: Notify::new(), bells }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting().deliveries.len()
    }

    /// Hands deliveries to the slots, and wakes no more slots than there is work for.
    pub(crate) fn push(&self, deliveries: impl IntoIterator<Item = Arc<Active>>) {
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

    /// Everything that no slot has taken, to be given back to the broker.
    pub(crate) fn take_back(&self) -> Vec<Arc<Active>> {
        self.waiting().deliveries.drain(..).collect()
    }

    /// Since when deliveries wait here without one being taken. None when none waits.
    pub(crate) fn still_since(&self) -> Option<Instant> {
        let waiting = self.waiting();
        (!waiting.deliveries.is_empty()).then_some(waiting.last_taken)
    }

    fn pop(&self) -> Option<Arc<Active>> {
        let mut waiting = self.waiting();
        let active = waiting.deliveries.pop_front()?;
        waiting.last_taken = Instant::now();
        let low = waiting.deliveries.len() == waiting.low_water;
        drop(waiting);
        if low {
            self.bells.refill.notify_one();
        }
        Some(active)
    }

    async fn take(&self) -> Arc<Active> {
        if let Some(active) = self.pop() {
            return active;
        }
        loop {
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            // Registered and counted before the second look: a push between the look and the wait wakes this slot.
            arrived.as_mut().enable();
            self.idle.fetch_add(1, Ordering::SeqCst);
            let active = self.pop();
            if active.is_none() {
                arrived.await;
            }
            self.idle.fetch_sub(1, Ordering::SeqCst);
            if let Some(active) = active {
                return active;
            }
            if let Some(active) = self.pop() {
                return active;
            }
        }
    }
}

/// One slot: runs deliveries until the conductor is gone.
pub(crate) async fn slot(line: Arc<Line>, attempts: Arc<Attempts>, finished: mpsc::UnboundedSender<Finished>) {
    loop {
        let active = line.take().await;
        let done = attempts.run_caught(active).await;
        // Unbounded in type only: never more than the deliveries held, which the conductor limits.
        if finished.send(done).is_err() {
            return;
        }
        // Nothing above may have waited: leave the thread to other guests now and then.
        tokio::task::consume_budget().await;
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
            .enable_time()
            .build()
            .map_err(crate::Error::Threads)?;
        Ok(Self(Some(runtime)))
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.0 {
            runtime.spawn(task);
        }
    }
}

impl Drop for GuestThreads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
