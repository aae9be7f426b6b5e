//! Background services that move jobs as time passes.
//!
//! Any number of processes may run them: every step is one atomic operation of the broker, and repeating it does nothing. So that
//! not all of them poll the store, a service steps only in the process that holds its lease (`service_lease`). A service may be
//! stopped at any moment without loss; one that panics goes on with its next step. This crate must not know Redis, SQL or HTTP.

mod blob_collector;
mod bulk_actions;
mod large_value_owner;
mod large_value_sweeper;
mod module_collector;
mod module_users;
mod promoter;
mod pruner;
mod reaper;
mod scheduler;
mod service;
mod service_lease;

use std::{
    fmt,
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::Duration,
};

use blob_collector::{BlobCollector, BlobSweeper};
use bulk_actions::BulkActions;
use large_value_sweeper::Sweeper;
use module_collector::ModuleCollector;
use promoter::Promoter;
use pruner::Pruner;
use reaper::Reaper;
use scheduler::Scheduler;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use umbel_broker::Broker;
use umbel_compose::{Limits, Rules, TaskSource};
use umbel_model::{PolicyBounds, settings};
use umbel_modules::ModuleStore;

pub use large_value_owner::other_owner;
pub use service::Error;
use service::Service;

settings! {
    /// How often each service looks.
    #[derive(Debug, Clone)]
    pub struct ControlConfig {
        /// Between two looks for due jobs, unless one is known to be due sooner: the delay with which a delayed job may be queued.
        pub promote_every: Duration = Duration::from_millis(200),
        /// Between two looks for expired leases.
        pub reap_every: Duration = Duration::from_secs(1),
        /// Between two looks for jobs to delete.
        pub prune_every: Duration = Duration::from_secs(5),
        /// Between two looks for actions on many jobs, when there was nothing to do.
        pub bulk_every: Duration = Duration::from_millis(250),
        /// Between two looks for large values whose job is gone. Each lists all of them.
        pub sweep_every: Duration = Duration::from_secs(3_600),
        /// Younger values are not deleted: a value is stored before its job.
        pub sweep_grace: Duration = Duration::from_secs(3_600),
        /// Between two looks for modules to take away. On Redis each passes all keys.
        pub collect_every: Duration = Duration::from_secs(600),
        /// A deleted module is kept for so long: servers remember tasks for a second, and a submission may take minutes.
        pub module_grace: Duration = Duration::from_secs(900),
        /// A module that was pushed so long ago is deleted when no task points at it or may be rolled back to it, and no
        /// unfinished job uses it. Zero: never.
        pub unused_modules_after: Duration = Duration::from_secs(30 * 86_400),
        /// A blob to which no job has referred for so long is deleted.
        pub blob_retention: Duration = Duration::from_secs(7 * 86_400),
        /// Younger bytes of a blob that has no record are not deleted: an attempt writes them before it succeeds.
        pub blob_grace: Duration = Duration::from_secs(86_400),
        /// Jobs moved in one step: keeps each step short, and so the wait of others for the broker.
        pub batch: u32 = 500,
        /// Jobs of one action in one step: many actions take turns.
        pub bulk_batch: u32 = 1_000,
    }
}

/// The broker, store and limits that the services work with.
#[derive(Clone)]
pub struct Dependencies {
    pub broker: Arc<dyn Broker>,
    /// The store of large values. Without it none is swept, and jobs with large arguments are not repeated.
    pub store: Option<ModuleStore>,
    /// The widest policy of a job that is repeated, or that a schedule starts.
    pub bounds: PolicyBounds,
    /// Who knows the tasks that schedules start, and checks arguments against their schemas. Without it they are read from the
    /// broker, and arguments are bound, but not checked.
    pub tasks: Option<Arc<dyn TaskSource>>,
}

impl From<Arc<dyn Broker>> for Dependencies {
    fn from(broker: Arc<dyn Broker>) -> Self {
        Self { broker, store: None, bounds: PolicyBounds::default(), tasks: None }
    }
}

impl fmt::Debug for Dependencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { broker, store, bounds, .. } = self;
        f.debug_struct("Dependencies").field("broker", broker).field("store", store).field("bounds", bounds).finish()
    }
}

/// The running services.
#[derive(Debug)]
pub struct Control {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Control {
    /// Starts all services on the current runtime.
    pub fn start(dependencies: impl Into<Dependencies>, config: &ControlConfig) -> Self {
        let Dependencies { broker, store, bounds, tasks } = dependencies.into();
        let control = Self { stop: CancellationToken::new(), tasks: TaskTracker::new() };
        let (process, config) = (service_lease::process_name(), || config.clone());
        control.run(Promoter { config: config(), opened: Mutex::default() }, &broker, &process);
        control.run(Reaper { config: config() }, &broker, &process);
        control.run(Pruner { config: config() }, &broker, &process);
        if let Some(store) = store.clone() {
            control.run(ModuleCollector::new(config(), store.clone()), &broker, &process);
            control.run(BlobCollector { config: config(), store: store.clone() }, &broker, &process);
            control.run(BlobSweeper { config: config(), store: store.clone() }, &broker, &process);
            control.run(Sweeper { config: config(), store, warned: AtomicBool::new(false) }, &broker, &process);
        }
        let rules = Rules { bounds: bounds.clone(), limits: Limits::default() };
        control.run(Scheduler::new(broker.clone(), store.clone(), rules, tasks), &broker, &process);
        control.run(BulkActions { config: config(), store, bounds }, &broker, &process);
        control.tasks.close();
        control
    }

    fn run(&self, service: impl Service, broker: &Arc<dyn Broker>, process: &str) {
        self.tasks.spawn(service::run(service, broker.clone(), process.to_owned(), self.stop.clone()));
    }

    /// Ends all services after the step that each is in; a sweep is broken off.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}
