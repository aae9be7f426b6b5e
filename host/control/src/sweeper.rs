//! Deletes large values whose job is gone: those of jobs that were pruned or forgotten, and of submissions that came to
//! nothing.

use std::{
    collections::{HashMap, hash_map::Entry},
    time::Duration,
};

use futures::TryStreamExt as _;
use umbel_broker::Broker;
use umbel_model::{JobId, TenantId};
use umbel_modules::ModuleStore;

use crate::service::{Service, Step};

pub(crate) struct Sweeper {
    pub(crate) every: Duration,
    pub(crate) grace: Duration,
    pub(crate) store: ModuleStore,
}

/// Jobs whose state is kept in mind within one sweep: several values of a job mostly come one after the other.
const KNOWN: usize = 1_000;

impl Service for Sweeper {
    fn name(&self) -> &'static str {
        "value sweeper"
    }

    fn may_be_broken_off(&self) -> bool {
        true
    }

    fn step<'a>(&'a self, broker: &'a dyn Broker) -> Step<'a> {
        Box::pin(async move {
            let (mut values, mut deleted) = (self.store.values(), 0_u64);
            let mut known: HashMap<(TenantId, JobId), bool> = HashMap::new();
            while let Some(value) = values.try_next().await? {
                if value.age < self.grace {
                    continue;
                }
                if known.len() >= KNOWN {
                    known.clear();
                }
                // Asked of the tenant whose folder it is in: nobody's job keeps or loses another tenant's value.
                if let Entry::Vacant(entry) = known.entry((value.tenant.clone(), value.job)) {
                    let is_there = broker.job(&value.tenant, value.job).await?.is_some();
                    entry.insert(is_there);
                    if !is_there {
                        deleted += u64::from(self.store.delete_values(&value.tenant, value.job).await?);
                    }
                }
            }
            if deleted > 0 {
                tracing::info!(deleted, "large values of jobs that are gone were deleted");
            }
            Ok(self.every)
        })
    }
}
