//! Deletes large values whose job does not exist: it was pruned or forgotten, or its submission failed.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures::TryStreamExt as _;
use umbel_broker::Broker;
use umbel_model::{JobId, TenantId};
use umbel_modules::ModuleStore;

use crate::{ControlConfig, Error, large_value_owner::owns, service::Service};

pub(crate) struct Sweeper {
    pub(crate) config: ControlConfig,
    pub(crate) store: ModuleStore,
    /// It was logged that the values are another broker's.
    pub(crate) warned: AtomicBool,
}

/// Jobs that one sweep remembers: several values of a job are mostly listed one after the other.
const MAX_KNOWN_JOBS: usize = 1_000;

impl Service for Sweeper {
    const NAME: &'static str = "value sweeper";
    /// The folder with the values may be this process' own.
    const IS_LEASED: bool = false;
    const MAY_BE_BROKEN_OFF: bool = true;

    async fn step(&self, broker: &dyn Broker) -> Result<Duration, Error> {
        if !owns(broker, &self.store).await? {
            if !self.warned.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    "large values are not swept: those in the data folder belong to another broker; give each broker a \
                     data folder of its own, or, when the other one is gone for good, delete modules/values/OWNER there"
                );
            }
            return Ok(self.config.sweep_every);
        }
        let (mut values, mut deleted) = (self.store.values(), 0_u64);
        let mut known: HashMap<(TenantId, JobId), bool> = HashMap::new();
        while let Some(value) = values.try_next().await? {
            if value.age < self.config.sweep_grace {
                continue;
            }
            if known.len() >= MAX_KNOWN_JOBS {
                known.clear();
            }
            // Of the tenant in whose folder the value is: no job keeps or loses another tenant's value.
            if let Entry::Vacant(entry) = known.entry((value.tenant.clone(), value.job)) {
                let is_there = broker.job(&value.tenant, value.job).await?.is_some();
                entry.insert(is_there);
                if !is_there {
                    // Its young values stay: they may be those of a submission under way.
                    deleted += u64::from(
                        self.store.delete_values_older(&value.tenant, value.job, self.config.sweep_grace).await?,
                    );
                }
            }
        }
        if deleted > 0 {
            tracing::info!(deleted, "large values of jobs that are gone were deleted");
        }
        Ok(self.config.sweep_every)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, time::SystemTime};

    use umbel_broker_conformance::MemoryBroker;
    use umbel_model::LargeValue;

    use super::*;
    use crate::large_value_owner::other_owner;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn tenant() -> TenantId {
        TenantId::new("a").unwrap()
    }

    fn sweeper(store: &ModuleStore) -> Sweeper {
        let config = ControlConfig { sweep_every: HOUR, sweep_grace: HOUR, ..ControlConfig::default() };
        Sweeper { config, store: store.clone(), warned: AtomicBool::new(false) }
    }

    /// A value of a job that is nowhere.
    async fn orphan(store: &ModuleStore, folder: &Path, text: &str, age: Duration) -> LargeValue {
        let value = store.put_value(&tenant(), JobId::from_parts(1, 1), text).await.unwrap();
        let path = folder.join(format!("values/a/{}/{}", value.of, value.sha256.hex()));
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
        value
    }

    #[tokio::test]
    async fn an_old_value_of_a_job_that_is_gone_is_deleted_and_a_young_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let store = ModuleStore::local(folder.path()).await.unwrap();
        let old = orphan(&store, folder.path(), "1", 2 * HOUR).await;
        let young = orphan(&store, folder.path(), "22", HOUR / 2).await;
        sweeper(&store).step(&MemoryBroker::default()).await.unwrap();
        assert!(store.value(&tenant(), &old).await.is_err());
        assert_eq!(store.value(&tenant(), &young).await.unwrap(), "22", "it may be that of a submission under way");
    }

    #[tokio::test]
    async fn a_brokers_sweeper_deletes_nothing_in_a_folder_that_is_anothers() {
        let folder = tempfile::tempdir().unwrap();
        let store = ModuleStore::local(folder.path()).await.unwrap();
        let (first, second) = (MemoryBroker::default(), MemoryBroker::default());
        // A folder of an older release has values, but no broker's name.
        let before = orphan(&store, folder.path(), "1", 2 * HOUR).await;
        assert_eq!(other_owner(&first, &store).await.unwrap(), None);
        sweeper(&store).step(&first).await.unwrap();
        assert!(store.value(&tenant(), &before).await.is_err(), "the first one owns it");

        let kept = orphan(&store, folder.path(), "2", 2 * HOUR).await;
        let others = sweeper(&store);
        others.step(&second).await.unwrap();
        assert!(others.warned.load(Ordering::Relaxed));
        assert_eq!(store.value(&tenant(), &kept).await.unwrap(), "2");
        assert_eq!(other_owner(&second, &store).await.unwrap(), store.values_owner().await.unwrap());
        assert_eq!(other_owner(&first, &store).await.unwrap(), None);

        let again = sweeper(&store);
        again.step(&first).await.unwrap();
        assert!(!again.warned.load(Ordering::Relaxed));
        assert!(store.value(&tenant(), &kept).await.is_err(), "its owner, started again, sweeps on");
    }

    #[tokio::test]
    async fn replicas_that_start_at_once_agree_on_the_brokers_name() {
        let folder = tempfile::tempdir().unwrap();
        let store = ModuleStore::local(folder.path()).await.unwrap();
        let broker = MemoryBroker::default();
        let owns = futures::future::try_join_all((0..8).map(|_| owns(&broker, &store))).await.unwrap();
        assert_eq!(owns, [true; 8]);
    }
}
