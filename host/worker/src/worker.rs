//! Starts and ends a worker.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::task::AbortOnDropHandle;
use umbel_broker::{Broker, Shutdown, WorkerOrder};
use umbel_model::{Policy, WorkerId};

use crate::{
    Error, Runtime, WorkerConfig,
    active_delivery::Wakers,
    attempt::Attempts,
    guest_threads::GuestThreads,
    heartbeat::{self, Vitals},
    memory::MemoryBudget,
    poll_loop::{Channels, Command, End, PollLoop},
    reserve::Reserve,
    slots::{LocalQueue, SlotPool},
};

/// A worker that ends waits at most so long for the broker to forget it.
const FORGET_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs jobs. See [`Worker::start`].
#[derive(Debug)]
pub struct Worker;

impl Worker {
    /// Starts claiming and running jobs. Leases are kept on the caller's runtime, guests run on threads of their own.
    /// Must be called inside a tokio runtime with time and IO.
    pub fn start(broker: Arc<dyn Broker>, runtime: Runtime, config: WorkerConfig) -> Result<WorkerHandle, Error> {
        config.check()?;
        let threads = GuestThreads::start(config.guest_threads)?;
        let wakers = Arc::new(Wakers::default());
        let queue = Arc::new(LocalQueue::new(wakers.clone(), Reserve::new(config.several_tenants.clone())));
        let vitals = Arc::new(Vitals::new(&config));
        let background = tokio::runtime::Handle::current();
        // A sandbox with fewer slots makes attempts wait, so the worker's own number is the limit then.
        let most = runtime.sandbox().config().slots.max(config.concurrency);
        let (look, max) = (config.guest_memory_bytes, config.max_guest_memory_bytes);
        let look = move || if max == 0 { look() } else { look().min(max) };
        let memory = MemoryBudget::new(Box::new(look), runtime.bounds().max_memory_bytes, Instant::now());
        let usual = memory.attempts(Policy::default().memory_bytes);
        if usual < config.concurrency {
            tracing::warn!(
                worker = %config.id, slots = config.concurrency, attempts = usual,
                "there is memory for fewer attempts of the usual memory limit than there are slots; further ones wait"
            );
        }
        let attempts = Arc::new(Attempts::new(broker.clone(), runtime, memory, config.id.clone(), background));
        let (done, finished) = mpsc::unbounded_channel();
        let (usual, apart) = (threads.usual(), threads.apart());
        let pool = SlotPool { queue, attempts, finished: done, threads: usual, apart, most };
        let (command, commands) = watch::channel(Command::default());
        let (order, orders) = watch::channel(WorkerOrder::default());
        let id = config.id.clone();
        let channels = Channels { wakers, finished, commands, orders, vitals: vitals.clone() };
        let poll_loop = PollLoop::new(broker.clone(), config.clone(), pool, channels);
        // Aborted with the poll loop, even if that panics: a dead worker must not look alive.
        let beat = AbortOnDropHandle::new(tokio::spawn(heartbeat::beat(broker.clone(), vitals.clone(), order)));
        let (worker, settled) = (id.clone(), vitals.clone());
        let task = tokio::spawn(async move {
            let end = poll_loop.run().await;
            // Dropped only here: the slots need their threads until the last settle.
            drop(threads);
            beat.abort();
            // A heartbeat under way must not arrive after the worker was forgotten.
            let _ = beat.await;
            let _ = tokio::time::timeout(FORGET_TIMEOUT, broker.forget_worker(&worker)).await;
            tracing::info!(%worker, settled = settled.total_settled(), why = ?end, "worker ended");
            end
        });
        Ok(WorkerHandle { id, command, vitals, task: Some(task), end: End::Died })
    }
}

/// A running worker. Dropping it ends the worker at once, as `stop` does.
#[derive(Debug)]
pub struct WorkerHandle {
    id: WorkerId,
    command: watch::Sender<Command>,
    vitals: Arc<Vitals>,
    /// None once it was seen to end.
    task: Option<JoinHandle<End>>,
    end: End,
}

impl WorkerHandle {
    pub fn id(&self) -> &WorkerId {
        &self.id
    }

    /// Jobs settled so far, without those that were given back.
    pub fn settled(&self) -> u64 {
        self.vitals.total_settled()
    }

    /// Claims nothing more and gives back jobs that did not start. Running jobs go on, and the worker stays.
    pub fn pause(&self) {
        self.command.send_modify(|command| command.paused = true);
    }

    /// Claims again.
    pub fn resume(&self) {
        self.command.send_modify(|command| command.paused = false);
    }

    /// Soft shutdown: claims nothing more, gives back jobs that did not start, lets running attempts finish for the grace
    /// time, then hands them back at no cost to their jobs. Then the worker ends.
    pub fn drain(&self) {
        self.shutdown(Shutdown::Soft);
    }

    /// Ends the worker: warm when running jobs have ended, soft after the grace time at the latest, cold now. A job that is
    /// stopped is handed back at no cost, unless it may run only once. May be called again to end the worker sooner.
    pub fn shutdown(&self, how: Shutdown) {
        self.command.send_modify(|command| command.shutdown = Some(how));
    }

    /// Ends at once, as a crash would. Leases expire, which costs each held job a delivery.
    pub fn stop(&self) {
        self.command.send_modify(|command| command.stop = true);
    }

    /// Waits until the worker has ended, also by a panic, and says why. Safe to drop at any await and to call again.
    pub async fn join(&mut self) -> End {
        if let Some(task) = &mut self.task {
            self.end = task.await.unwrap_or(End::Died);
            self.task = None;
        }
        self.end
    }
}
