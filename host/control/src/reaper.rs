//! Takes back the jobs whose lease expired.

use std::time::Duration;

use umbel_broker::{Broker, Reaped};

use crate::{ControlConfig, Error, service::Service};

pub(crate) struct Reaper {
    pub(crate) config: ControlConfig,
}

impl Service for Reaper {
    const NAME: &'static str = "reaper";

    async fn step(&self, broker: &dyn Broker) -> Result<Duration, Error> {
        let Reaped { requeued, buried, failed, revoked } = broker.reap(self.config.batch).await?;
        let total = requeued + buried + failed + revoked;
        if total > 0 {
            tracing::warn!(requeued, buried, failed, revoked, "leases expired: their workers fell silent");
        }
        Ok(if total >= self.config.batch { Duration::ZERO } else { self.config.reap_every })
    }
}
