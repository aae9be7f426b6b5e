//! Waiting for jobs and workflows to end: one receiver of hints for many waiters, each of whom still polls now and then.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, broadcast::error::RecvError, futures::OwnedNotified},
    time::Instant,
};
use umbel_model::{JobId, JobRecord, TenantId, WorkflowId};

use crate::{Broker, Result, Signal, Topic, WorkflowRecord};

/// A lost hint costs a waiter at most this long.
const POLL: Duration = Duration::from_secs(1);

/// Lets any number of callers wait for jobs and workflows.
#[derive(Debug, Clone)]
pub struct Watch {
    broker: Arc<dyn Broker>,
    waiters: Arc<Mutex<HashMap<JobId, Arc<Notify>>>>,
}

impl Watch {
    /// Starts listening. The task ends when the last `Watch` of this family is dropped.
    pub fn start(broker: Arc<dyn Broker>) -> Self {
        let waiters: Arc<Mutex<HashMap<JobId, Arc<Notify>>>> = Arc::default();
        let weak = Arc::downgrade(&waiters);
        let listener = broker.clone();
        tokio::spawn(async move {
            while weak.strong_count() > 0 {
                let Ok(mut signals) = listener.signals(Topic::Done).await else {
                    tokio::time::sleep(POLL).await;
                    continue;
                };
                while weak.strong_count() > 0 {
                    let ended = match tokio::time::timeout(POLL, signals.recv()).await {
                        Err(_) => continue,
                        Ok(Err(RecvError::Closed)) => break,
                        Ok(Ok(Signal::Done(ids))) => Some(ids),
                        // Hints were missed: all are to look.
                        Ok(Err(RecvError::Lagged(_)) | Ok(_)) => None,
                    };
                    let Some(waiters) = weak.upgrade() else { return };
                    let waiters = waiters.lock().unwrap_or_else(PoisonError::into_inner);
                    match ended {
                        Some(ids) => ids.iter().filter_map(|id| waiters.get(id)).for_each(|n| n.notify_waiters()),
                        None => waiters.values().for_each(|n| n.notify_waiters()),
                    }
                }
            }
        });
        Self { broker, waiters }
    }

    /// A place among those who wait for a job or workflow that need not exist yet: its end from now on is not missed.
    pub fn waiter(&self, id: JobId) -> Waiter {
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        let notify = waiters.entry(id).or_default().clone();
        drop(waiters);
        let ended = Box::pin(notify.clone().notified_owned());
        Waiter { watch: self.clone(), id, notify, ended }
    }

    /// The job once it has ended, or as it stands when `wait` is over. None when there is no such job.
    pub async fn job(&self, tenant: &TenantId, id: JobId, wait: Duration) -> Result<Option<JobRecord>> {
        self.waiter(id).until(wait, || self.broker.job(tenant, id), |record| record.state.is_terminal()).await
    }

    /// The same of a job that was created after its `waiter` was: it is looked at when a hint tells of it.
    pub async fn new_job(
        &self,
        tenant: &TenantId,
        mut waiter: Waiter,
        mut wait: Duration,
    ) -> Result<Option<JobRecord>> {
        let started = Instant::now();
        waiter.hint(wait).await;
        wait = wait.saturating_sub(started.elapsed());
        let id = waiter.id;
        waiter.until(wait, || self.broker.job(tenant, id), |record| record.state.is_terminal()).await
    }

    /// The workflow once it is over, or as it stands when `wait` is over. None when there is no such workflow.
    pub async fn workflow(&self, tenant: &TenantId, id: WorkflowId, wait: Duration) -> Result<Option<WorkflowRecord>> {
        self.waiter(id).until(wait, || self.broker.workflow(tenant, id), |record| record.state.is_terminal()).await
    }
}

/// One place in the table, given back on drop.
#[derive(Debug)]
pub struct Waiter {
    watch: Watch,
    id: JobId,
    notify: Arc<Notify>,
    /// Hears of what happened since it was made.
    ended: Pin<Box<OwnedNotified>>,
}

impl Waiter {
    /// Waits for a hint, but no longer than a lost one may cost.
    async fn hint(&mut self, wait: Duration) {
        let _ = tokio::time::timeout(wait.min(POLL), self.ended.as_mut()).await;
        self.ended.set(self.notify.clone().notified_owned());
    }

    async fn until<R, F: Future<Output = Result<Option<R>>>>(
        mut self,
        wait: Duration,
        look: impl Fn() -> F,
        is_over: impl Fn(&R) -> bool,
    ) -> Result<Option<R>> {
        let deadline = Instant::now() + wait;
        loop {
            // Its place was taken before the look: an end between the look and the wait is not missed.
            let record = match look().await {
                // An outage in the middle of a wait is waited out too.
                Err(error) if error.is_transient() && Instant::now() < deadline => {
                    tokio::time::sleep(POLL.min(deadline.saturating_duration_since(Instant::now()))).await;
                    continue;
                }
                answer => answer?,
            };
            let ended = record.as_ref().is_none_or(&is_over);
            let left = deadline.saturating_duration_since(Instant::now());
            if ended || left.is_zero() {
                return Ok(record);
            }
            self.hint(left).await;
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut waiters = self.watch.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        // Given up while the table is locked: the last of several that go at once sees that it is the last.
        self.ended.set(Arc::<Notify>::default().notified_owned());
        drop(std::mem::take(&mut self.notify));
        if waiters.get(&self.id).is_some_and(|notify| Arc::strong_count(notify) == 1) {
            waiters.remove(&self.id);
        }
    }
}
