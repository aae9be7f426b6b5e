//! Takes back the jobs of workers that fell silent.

use std::time::Duration;

use umbel_broker::Broker;

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
            let reaped = broker.reap(self.batch).await?;
            let total = reaped.requeued + reaped.buried + reaped.revoked;
            if total > 0 {
                let (requeued, buried, revoked) = (reaped.requeued, reaped.buried, reaped.revoked);
                tracing::warn!(requeued, buried, revoked, "leases expired: their workers fell silent");
            }
            Ok(if total >= self.batch { Duration::ZERO } else { self.every })
        })
    }
}
