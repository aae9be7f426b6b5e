//! Deletes jobs whose retention has passed, brings a store of an older release up to date, and counts anew what tenants have stored.

use std::time::Duration;

use umbel_broker::Broker;

use crate::{ControlConfig, Error, service::Service};

pub(crate) struct Pruner {
    pub(crate) config: ControlConfig,
}

/// The pause between two full batches: a backlog of old jobs must not keep the broker from new ones.
const BATCH_PAUSE: Duration = Duration::from_millis(20);

impl Service for Pruner {
    const NAME: &'static str = "pruner";

    async fn step(&self, broker: &dyn Broker) -> Result<Duration, Error> {
        let pruned = broker.prune(self.config.batch).await?;
        let has_more = pruned >= self.config.batch || broker.catch_up().await?;
        Ok(if has_more { BATCH_PAUSE } else { self.config.prune_every })
    }
}
