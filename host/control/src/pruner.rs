//! Deletes jobs whose retention has passed.

use std::time::Duration;

use umbel_broker::Broker;

use crate::service::{Service, Step};

pub(crate) struct Pruner {
    pub(crate) every: Duration,
    pub(crate) batch: u32,
}

/// The pause between two full batches: a backlog of old jobs must not keep the broker from new ones.
const BATCH_PAUSE: Duration = Duration::from_millis(20);

impl Service for Pruner {
    fn name(&self) -> &'static str {
        "pruner"
    }

    fn step<'a>(&'a self, broker: &'a dyn Broker) -> Step<'a> {
        Box::pin(async move {
            let pruned = broker.prune(self.batch).await?;
            Ok(if pruned >= self.batch { BATCH_PAUSE } else { self.every })
        })
    }
}
