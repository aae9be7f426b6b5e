//! Background services that move jobs as time passes.
//!
//! Any number of replicas may run: every step is one atomic operation of the broker, and doing it twice does nothing.
//! A service holds no state, so stopping one in any moment loses nothing. They must not know Redis, SQL or HTTP.

mod promoter;
mod pruner;
mod reaper;
mod service;

use std::{sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use umbel_broker::Broker;

use service::Service;

/// How often each service looks.
#[derive(Debug, Clone)]
pub struct ControlConfig {
    /// Between two looks for due jobs, unless one is known to be due sooner: how late a delayed job may be queued.
    pub promote_every: Duration,
    /// Between two looks for expired leases.
    pub reap_every: Duration,
    /// Between two looks for jobs to delete.
    pub prune_every: Duration,
    /// Jobs moved in one step: keeps each step, and with it everybody's wait for the broker, short.
    pub batch: u32,
}

impl Default for ControlConfig {
    fn default() -> Self {
        Self {
            promote_every: Duration::from_millis(200),
            reap_every: Duration::from_secs(1),
            prune_every: Duration::from_secs(5),
            batch: 500,
        }
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
    pub fn start(broker: Arc<dyn Broker>, config: &ControlConfig) -> Self {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let services: [Box<dyn Service>; 3] = [
            Box::new(promoter::Promoter { every: config.promote_every, batch: config.batch }),
            Box::new(reaper::Reaper { every: config.reap_every, batch: config.batch }),
            Box::new(pruner::Pruner { every: config.prune_every, batch: config.batch }),
        ];
        for service in services {
            tasks.spawn(service::run(service, broker.clone(), stop.clone()));
        }
        tasks.close();
        Self { stop, tasks }
    }

    /// Ends all services after the step that each is in.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}
