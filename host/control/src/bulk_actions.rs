//! Carries out actions on many jobs, a few jobs of each action in turn, so that a large action delays no other.

use std::time::Duration;

use umbel_broker::Broker;
use umbel_bulk::{Advanced, Carrier};
use umbel_model::PolicyBounds;
use umbel_modules::ModuleStore;

use crate::{
    ControlConfig,
    promoter::now_ms,
    service::{Error, Service},
};

/// Actions in one page of the index.
const PAGE: u32 = 100;
/// The pause between two rounds: actions must not keep the broker from its jobs.
const ROUND_PAUSE: Duration = Duration::from_millis(5);

pub(crate) struct BulkActions {
    pub(crate) config: ControlConfig,
    pub(crate) store: Option<ModuleStore>,
    pub(crate) bounds: PolicyBounds,
}

/// A step that takes longer is given up, so that it does not delay other tenants' actions. Steps may be repeated.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);

impl Service for BulkActions {
    const NAME: &'static str = "bulk";

    async fn step(&self, broker: &dyn Broker) -> Result<Duration, Error> {
        let carrier = Carrier { broker, store: self.store.as_ref(), bounds: &self.bounds };
        let (mut after, mut working, mut failure) = (None::<String>, false, None);
        loop {
            let page = umbel_bulk::running(broker, after.as_deref(), PAGE).await?;
            for (_, tenant, id) in &page {
                let step = umbel_bulk::advance(carrier, tenant, *id, now_ms(), self.config.bulk_batch);
                match tokio::time::timeout(STEP_TIMEOUT, step).await {
                    Ok(Ok(advanced)) => working |= advanced == Advanced::Working,
                    // The others go on; this one is tried again with the next round.
                    Ok(Err(error)) => failure = Some(error),
                    Err(_) => tracing::warn!(%tenant, bulk = %id, "a step of an action on many jobs took too long"),
                }
            }
            after = page.last().map(|(name, ..)| name.clone());
            if page.len() < PAGE as usize {
                break;
            }
        }
        match failure {
            Some(error) => Err(error.into()),
            None => Ok(if working { ROUND_PAUSE } else { self.config.bulk_every }),
        }
    }
}
