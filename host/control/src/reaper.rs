//! Takes back the jobs whose lease expired.

use std::time::Duration;

use umbel_broker::{Broker, Reaped};

use crate::service::{Service, Step};

pub(crate) struct Reaper {
    pub(crate) every: Duration,
    pub(crate) batch: u32,
}

impl Service for Reaper {
    fn name(&self) -> &'static str {
        "reaper"
    }

    fn step<'a>(&'a self, broker: &'a dyn Broker) -> Step<'a> {
        Box::pin(async move {
            let Reaped { requeued, buried, failed, revoked } = broker.reap(self.batch).await?;
            let total = requeued + buried + failed + revoked;
            if total > 0 {
                tracing::warn!(requeued, buried, failed, revoked, "leases expired: their workers fell silent");
            }
            Ok(if total >= self.batch { Duration::ZERO } else { self.every })
        })
    }
}
