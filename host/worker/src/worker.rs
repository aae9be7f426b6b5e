//! Starts and ends a worker.

use std::sync::Arc;

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::task::AbortOnDropHandle;
use umbel_broker::Broker;
use umbel_model::WorkerId;

use crate::{
    Error, Queues, Runtime, WorkerConfig,
    active::Bells,
    attempt::{Attempts, random_u64},
    conductor::{Conductor, Wires, Wish},
    heartbeat::{self, Vitals},
    queues,
    slots::{GuestThreads, Line, slot},
};

/// Runs jobs. See [`Worker::start`].
#[derive(Debug)]
pub struct Worker;

impl Worker {
    /// Starts claiming and running jobs. Leases are kept on the caller's runtime, guests run on threads of their own.
    /// Must be called inside a tokio runtime with time and IO.
    pub fn start(broker: Arc<dyn Broker>, runtime: Runtime, config: WorkerConfig) -> Result<WorkerHandle, Error> {
        config.check()?;
        let threads = GuestThreads::start(config.guest_threads)?;
        let bells = Arc::new(Bells::default());
        let line = Arc::new(Line::new(bells.clone()));
        let vitals = Arc::new(Vitals::default());
        let background = tokio::runtime::Handle::current();
        let attempts = Arc::new(Attempts::new(broker.clone(), runtime, config.id.clone(), background));
        let (done, finished) = mpsc::unbounded_channel();
        for _ in 0..config.concurrency {
            threads.spawn(slot(line.clone(), attempts.clone(), done.clone()));
        }
        let (wish, wishes) = watch::channel(Wish::Run);
        let (found, found_queues) = watch::channel(Vec::new());
        let look_out = match &config.queues {
            Queues::All => Some(AbortOnDropHandle::new(tokio::spawn(queues::look_out(broker.clone(), found)))),
            Queues::Named(_) => None,
        };
        let beat = tokio::spawn(heartbeat::beat(broker.clone(), config.clone(), vitals.clone()));
        let beat = AbortOnDropHandle::new(beat);
        let id = config.id.clone();
        let wires = Wires { line, bells, finished, wishes, found: found_queues, vitals: vitals.clone() };
        let conductor = Conductor::new(broker.clone(), config, wires);
        let ending = Ending { broker, id: id.clone(), vitals: vitals.clone(), helpers: [Some(beat), look_out] };
        let task = tokio::spawn(async move {
            conductor.run().await;
            // Only now: the slots need their threads until the last settle.
            drop(threads);
            ending.end().await;
        });
        Ok(WorkerHandle { id, wish, vitals, task: Some(task) })
    }

    /// A worker id that no other process has: host name, process id and a random part.
    pub fn unique_id() -> WorkerId {
        let name = format!("{}-{}-{:08x}", heartbeat::host_name(), std::process::id(), random_u64() as u32);
        WorkerId::new(name).expect("the host name has only characters of a worker id")
    }
}

struct Ending {
    broker: Arc<dyn Broker>,
    id: WorkerId,
    vitals: Arc<Vitals>,
    /// They end with the conductor, even if it panics: a worker that is dead must not look alive.
    helpers: [Option<AbortOnDropHandle<()>>; 2],
}

impl Ending {
    async fn end(self) {
        for helper in self.helpers.into_iter().flatten() {
            helper.abort();
            // A beat under way must not come after the farewell.
            let _ = helper.await;
        }
        let farewell = self.broker.forget_worker(&self.id);
        let _ = tokio::time::timeout(std::time::Duration::from_secs(2), farewell).await;
        tracing::info!(worker = %self.id, settled = self.vitals.total_settled(), "worker ended");
    }
}

/// A running worker. Dropping it ends the worker at once, as `stop` does.
#[derive(Debug)]
pub struct WorkerHandle {
    id: WorkerId,
    wish: watch::Sender<Wish>,
    vitals: Arc<Vitals>,
    /// None once it was seen to end.
    task: Option<JoinHandle<()>>,
}

impl WorkerHandle {
    pub fn id(&self) -> &WorkerId {
        &self.id
    }

    /// Jobs settled so far.
    pub fn settled(&self) -> u64 {
        self.vitals.total_settled()
    }

    /// Warm shutdown: claims nothing more, gives back what did not start, lets running attempts finish for the grace
    /// time, then hands them back at no cost to their jobs. Then the worker ends.
    pub fn drain(&self) {
        self.wish.send_if_modified(|wish| *wish == Wish::Run && std::mem::replace(wish, Wish::Drain) == Wish::Run);
    }

    /// Cold shutdown: ends at once. Leases expire, which costs each held job a delivery.
    pub fn stop(&self) {
        self.wish.send_replace(Wish::Stop);
    }

    /// Waits until the worker has ended, also by a panic. Safe to drop at any await and to call again.
    pub async fn join(&mut self) {
        if let Some(task) = &mut self.task {
            let _ = task.await;
            self.task = None;
        }
    }
}
