//! Carries out actions on many jobs, a few jobs of each in turn: a large one holds up no other, whoever it belongs to.

use std::time::Duration;

use umbel_broker::Broker;
use umbel_bulk::{Advanced, Carrier};
use umbel_model::PolicyBounds;
use umbel_modules::ModuleStore;

use crate::{
    promoter::now_ms,
    service::{Service, Step},
};

/// Actions of one page of the index.
const PAGE: u32 = 100;
/// Between two rounds: actions on many jobs must not keep jobs waiting for the broker.
const BREATH: Duration = Duration::from_millis(5);

pub(crate) struct Bulks {
    pub(crate) every: Duration,
    pub(crate) batch: u32,
    pub(crate) store: Option<ModuleStore>,
    pub(crate) bounds: PolicyBounds,
}

/// A step that takes longer is given up, so that it does not hold up other tenants' actions; it may be repeated.
const LONGEST_STEP: Duration = Duration::from_secs(30);

impl Service for Bulks {
    fn name(&self) -> &'static str {
        "bulk"
    }

    fn step<'a>(&'a self, broker: &'a dyn Broker) -> Step<'a> {
        Box::pin(async move {
            let carrier = Carrier { broker, store: self.store.as_ref(), bounds: &self.bounds };
            let (mut after, mut working, mut failure) = (None::<String>, false, None);
            loop {
                let page = umbel_bulk::running(broker, after.as_deref(), PAGE).await?;
                for (_, tenant, id) in &page {
                    let step = umbel_bulk::advance(carrier, tenant, *id, now_ms(), self.batch);
                    match tokio::time::timeout(LONGEST_STEP, step).await {
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
                None => Ok(if working { BREATH } else { self.every }),
            }
        })
    }
}
