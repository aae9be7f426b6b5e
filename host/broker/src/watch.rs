//! Waiting for jobs and workflows to end: one receiver of hints for many waiters, each of whom still polls now and then.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, broadcast::error::RecvError},
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
                loop {
                    let signal = match tokio::time::timeout(POLL, signals.recv()).await {
                        Err(_) if weak.strong_count() == 0 => return,
                        Err(_) => continue,
                        Ok(Err(RecvError::Closed)) => break,
                        Ok(Err(RecvError::Lagged(_))) => Signal::Resync,
                        Ok(Ok(signal)) => signal,
                    };
                    let Some(waiters) = weak.upgrade() else { return };
                    let waiters = waiters.lock().unwrap_or_else(PoisonError::into_inner);
                    match signal {
                        Signal::Done(ids) => {
                            ids.iter().filter_map(|id| waiters.get(id)).for_each(|n| n.notify_waiters())
                        }
                        _ => waiters.values().for_each(|n| n.notify_waiters()),
                    }
                }
            }
        });
        Self { broker, waiters }
    }

    /// The job once it has ended, or as it stands when `wait` is over. None when there is no such job.
    pub async fn job(&self, tenant: &TenantId, id: JobId, wait: Duration) -> Result<Option<JobRecord>> {
        self.until(id, wait, || self.broker.job(tenant, id), |record| record.state.is_terminal()).await
    }

    /// The workflow once it is over, or as it stands when `wait` is over. None when there is no such workflow.
    pub async fn workflow(&self, tenant: &TenantId, id: WorkflowId, wait: Duration) -> Result<Option<WorkflowRecord>> {
        self.until(id, wait, || self.broker.workflow(tenant, id), |record| record.state.is_terminal()).await
    }

    async fn until<R, F: Future<Output = Result<Option<R>>>>(
        &self,
        id: JobId,
        wait: Duration,
        look: impl Fn() -> F,
        is_over: impl Fn(&R) -> bool,
    ) -> Result<Option<R>> {
        let deadline = Instant::now() + wait;
        let waiter = Waiter::new(self, id);
        loop {
            // Registered before the look: an end between the look and the wait is not missed.
            let notified = waiter.notify.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
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
            let _ = tokio::time::timeout(left.min(POLL), notified).await;
        }
    }
}

/// One place in the table, given back on drop.
struct Waiter<'a> {
    watch: &'a Watch,
    id: JobId,
    notify: Arc<Notify>,
}

impl<'a> Waiter<'a> {
    fn new(watch: &'a Watch, id: JobId) -> Self {
        let mut waiters = watch.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        let notify = waiters.entry(id).or_default().clone();
        Self { watch, id, notify }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut waiters = self.watch.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        // Two: the table's and ours. Nobody else can be in between while the table is locked.
        if Arc::strong_count(&self.notify) == 2 {
            waiters.remove(&self.id);
        }
    }
}
