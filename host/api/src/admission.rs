//! Admission of requests: permits from a number that all share, of which one tenant gets at most a part.
//!
//! A tenant that holds all that it may have leaves permits for the others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use umbel_model::TenantId;

use crate::problem::{Problem, Result};

/// Tenants remembered before those without a permit are forgotten.
const KEPT_TENANTS: usize = 1_024;

/// A semaphore for each tenant.
#[derive(Debug)]
pub(crate) struct TenantSemaphores {
    limit: usize,
    tenants: Mutex<HashMap<TenantId, Arc<Semaphore>>>,
}

impl TenantSemaphores {
    /// `limit` permits for each tenant.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, tenants: Mutex::default() }
    }

    /// A permit, if the tenant has one left.
    pub(crate) fn try_acquire(&self, tenant: &TenantId) -> Option<OwnedSemaphorePermit> {
        self.of(tenant).try_acquire_owned().ok()
    }

    fn of(&self, tenant: &TenantId) -> Arc<Semaphore> {
        // No panic can leave the map half changed.
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(semaphore) = tenants.get(tenant) {
            return semaphore.clone();
        }
        if tenants.len() >= KEPT_TENANTS {
            // A semaphore whose permits are held or waited for has other owners, too.
            tenants.retain(|_, semaphore| Arc::strong_count(semaphore) > 1);
        }
        let semaphore = Arc::new(Semaphore::new(self.limit));
        tenants.insert(tenant.clone(), semaphore.clone());
        semaphore
    }
}

/// Limits expensive work: requests wait for a permit, for a while.
#[derive(Debug)]
pub(crate) struct FairSemaphore {
    all: Arc<Semaphore>,
    tenants: TenantSemaphores,
    wait: Duration,
}

/// Given back when it is dropped.
#[derive(Debug)]
#[expect(dead_code, reason = "held until they are dropped")]
pub(crate) struct Permit {
    pub(crate) own: OwnedSemaphorePermit,
    pub(crate) shared: OwnedSemaphorePermit,
}

impl FairSemaphore {
    /// `all` permits, at most `one_tenants` of them for one tenant; waits for one for `wait`.
    pub(crate) fn new(all: usize, one_tenants: usize, wait: Duration) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), tenants: TenantSemaphores::new(one_tenants), wait }
    }

    /// A permit, in the order of asking, however long it takes. Closed never.
    pub(crate) async fn turn(&self, tenant: &TenantId) -> Option<Permit> {
        // The tenant's own first: while it waits for that, it holds up nobody else.
        let own = self.tenants.of(tenant).acquire_owned().await.ok()?;
        Some(Permit { own, shared: self.all.clone().acquire_owned().await.ok()? })
    }

    /// Permits that nobody holds.
    #[cfg(test)]
    pub(crate) fn free(&self) -> usize {
        self.all.available_permits()
    }

    /// A permit, in the order of asking.
    pub(crate) async fn acquire(&self, tenant: &TenantId) -> Result<Permit> {
        let late = || {
            let seconds = self.wait.as_secs();
            Problem::overloaded(format!("no permit became free within {seconds} s; send fewer requests at once"))
        };
        tokio::time::timeout(self.wait, self.turn(tenant)).await.ok().flatten().ok_or_else(late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    #[test]
    fn one_tenant_cannot_take_the_permits_of_another() {
        let semaphores = TenantSemaphores::new(2);
        let held = [semaphores.try_acquire(&tenant("a")).unwrap(), semaphores.try_acquire(&tenant("a")).unwrap()];
        assert!(semaphores.try_acquire(&tenant("a")).is_none());
        assert!(semaphores.try_acquire(&tenant("b")).is_some());
        drop(held);
        assert!(semaphores.try_acquire(&tenant("a")).is_some());
    }

    #[test]
    fn tenants_without_a_permit_are_forgotten() {
        let semaphores = TenantSemaphores::new(1);
        let held = semaphores.try_acquire(&tenant("a")).unwrap();
        for n in 0..2 * KEPT_TENANTS {
            assert!(semaphores.try_acquire(&tenant(&format!("t{n}"))).is_some());
        }
        assert!(semaphores.tenants.lock().unwrap().len() <= KEPT_TENANTS);
        assert!(semaphores.try_acquire(&tenant("a")).is_none(), "a permit that is held is remembered");
        drop(held);
    }

    #[tokio::test]
    async fn a_permit_that_does_not_come_is_overloaded_for_that_tenant_only() {
        let semaphore = FairSemaphore::new(3, 2, Duration::from_millis(20));
        let _held = [semaphore.acquire(&tenant("a")).await.unwrap(), semaphore.acquire(&tenant("a")).await.unwrap()];
        assert_eq!(semaphore.acquire(&tenant("a")).await.unwrap_err().code(), "overloaded");
        let _other = semaphore.acquire(&tenant("b")).await.unwrap();
        assert_eq!(semaphore.acquire(&tenant("b")).await.unwrap_err().code(), "overloaded", "all permits are held");
    }
}
