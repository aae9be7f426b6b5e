//! Secrets of a tenant as its guests use them: read from the broker when one asks, and kept sealed for at most a second, with the
//! tenant's data keys. No value is kept.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::runtime::Handle;
use umbel_broker::Broker;
use umbel_capabilities::{SecretError, SecretStore};
use umbel_compose::Secrets;
use umbel_model::{SecretName, TenantId};
use umbel_secrets::{DataKey, MasterKeys, Sealed};

use crate::fresh::Fresh;

/// How long an answer of the broker is used.
const KEPT_FOR: Duration = Duration::from_secs(1);
/// An answer besides its sealed text, bytes.
const ANSWER_BYTES: usize = 1_024;
/// Data keys that are kept. When there are more, all are read anew.
const KEPT_KEYS: usize = 10_000;

/// None: there is none.
type Found = Option<Arc<Sealed>>;

/// The secrets of all attempts of a worker.
pub(crate) struct SecretCache {
    broker: Arc<dyn Broker>,
    masters: Arc<MasterKeys>,
    kept: Fresh<(TenantId, SecretName), Found>,
    keys: Mutex<HashMap<(TenantId, String), Arc<DataKey>>>,
}

impl fmt::Debug for SecretCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretCache").finish_non_exhaustive()
    }
}

impl SecretCache {
    pub(crate) fn new(broker: Arc<dyn Broker>, masters: Arc<MasterKeys>, background: Handle) -> Arc<Self> {
        Self::keeping(KEPT_FOR, broker, masters, background)
    }

    fn keeping(kept_for: Duration, broker: Arc<dyn Broker>, masters: Arc<MasterKeys>, background: Handle) -> Arc<Self> {
        let bytes = |_: &(TenantId, SecretName), found: &Found| {
            ANSWER_BYTES + found.as_ref().map_or(0, |sealed| sealed.sealed_bytes())
        };
        Arc::new(Self { broker, masters, kept: Fresh::new(background, kept_for, bytes), keys: Mutex::default() })
    }

    /// Those of a tenant. Nothing is read before a guest asks.
    pub(crate) fn of(self: &Arc<Self>, tenant: &TenantId) -> TenantSecrets {
        TenantSecrets { cache: self.clone(), tenant: tenant.clone() }
    }

    async fn found(self: &Arc<Self>, tenant: &TenantId, name: &SecretName) -> Result<Found, SecretError> {
        let read = || {
            let (cache, tenant, name) = (self.clone(), tenant.clone(), name.clone());
            async move { cache.read(&tenant, &name).await }
        };
        self.kept.get(&(tenant.clone(), name.clone()), read, unavailable).await
    }

    async fn read(&self, tenant: &TenantId, name: &SecretName) -> Result<Found, SecretError> {
        let secrets = Secrets { broker: &*self.broker, masters: &self.masters };
        let known = |id: &str| self.keys().get(&(tenant.clone(), id.to_owned())).cloned();
        let read = secrets.read(tenant, name, known).await;
        match read {
            Ok(None) => Ok(None),
            Ok(Some((sealed, key))) => {
                self.keep(tenant, key);
                Ok(Some(Arc::new(sealed)))
            }
            Err(umbel_compose::Error::Broker(error)) => {
                tracing::warn!(%tenant, secret = %name, %error, "a secret cannot be looked up");
                Err(unavailable())
            }
            Err(error) => {
                tracing::warn!(%tenant, secret = %name, %error, "a secret cannot be opened");
                let what = match error {
                    umbel_compose::Error::Secret(umbel_secrets::Error::Damaged(_)) => {
                        "its record is damaged: set it again"
                    }
                    _ => "this worker has not the master key for it: an operator must give it (see its log)",
                };
                Err(SecretError::Unavailable(format!("the secret `{name}` cannot be opened: {what}")))
            }
        }
    }

    fn keep(&self, tenant: &TenantId, key: Arc<DataKey>) {
        let mut keys = self.keys();
        if keys.len() >= KEPT_KEYS {
            keys.clear();
        }
        keys.insert((tenant.clone(), key.id().to_owned()), key);
    }

    fn keys(&self) -> MutexGuard<'_, HashMap<(TenantId, String), Arc<DataKey>>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unavailable() -> SecretError {
    SecretError::Unavailable("secrets cannot be looked up now; try again".into())
}

/// The secrets of one tenant.
#[derive(Debug)]
pub(crate) struct TenantSecrets {
    cache: Arc<SecretCache>,
    tenant: TenantId,
}

#[async_trait]
impl SecretStore for TenantSecrets {
    async fn find(&self, name: &SecretName) -> Result<Arc<Sealed>, SecretError> {
        let found = self.cache.found(&self.tenant, name).await?;
        found.ok_or_else(|| SecretError::NotFound(name.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use umbel_broker::Expect;
    use umbel_broker_conformance::MemoryBroker;
    use umbel_compose::NewSecret;
    use umbel_secrets::{SecretValue, Terms};

    use super::*;

    fn masters(byte: &str) -> Arc<MasterKeys> {
        let mut keys = MasterKeys::default();
        keys.add(&format!("{byte}{}", "ab".repeat(31)), "test").unwrap();
        Arc::new(keys)
    }

    async fn set(broker: &dyn Broker, masters: &MasterKeys, tenant: &TenantId, name: &SecretName, value: &str) {
        let terms = Terms { reveal: true, ..Terms::default() };
        let value = SecretValue::new(value.into());
        let new = NewSecret { terms: &terms, value: &value, expect: None, now: 1 };
        Secrets { broker, masters }.put(tenant, name, new).await.unwrap();
    }

    #[tokio::test]
    async fn a_change_is_seen_a_second_later_and_without_the_master_key_nothing_opens() {
        let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::new(Default::default(), Default::default()));
        let (tenant, name) = (TenantId::new("t").unwrap(), SecretName::new("key").unwrap());
        let keys = masters("01");
        // For longer than any machine is slow: only what says so here makes it read again.
        let hour = Duration::from_secs(3_600);
        let cache = SecretCache::keeping(hour, broker.clone(), keys.clone(), Handle::current());
        let value = async || {
            let sealed = cache.of(&tenant).find(&name).await.map_err(|error| error.to_string())?;
            Ok::<_, String>(String::from_utf8(sealed.open().unwrap().bytes().to_vec()).unwrap())
        };
        assert!(value().await.unwrap_err().contains("umbel secret set key"));
        set(&*broker, &keys, &tenant, &name, "first value").await;
        cache.kept.forget();
        assert_eq!(value().await.unwrap(), "first value");
        set(&*broker, &keys, &tenant, &name, "second value").await;
        assert_eq!(value().await.unwrap(), "first value");
        cache.kept.forget();
        assert_eq!(value().await.unwrap(), "second value");
        let secrets = Secrets { broker: &*broker, masters: &keys };
        secrets.rotate(&tenant, 2).await.unwrap();
        cache.kept.forget();
        assert_eq!(value().await.unwrap(), "second value");
        let other = SecretCache::new(broker.clone(), masters("02"), Handle::current());
        let error = other.of(&tenant).find(&name).await.unwrap_err();
        assert!(error.to_string().contains("master key"), "{error}");
        secrets.delete(&tenant, &name, Expect::Any).await.unwrap();
        cache.kept.forget();
        assert!(value().await.is_err());
    }
}
