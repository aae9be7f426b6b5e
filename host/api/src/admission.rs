//! Places that requests share: so many for all, and of these so many for one tenant.
//!
//! A tenant that takes all of its own leaves places for the others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use umbel_model::TenantId;

use crate::problem::{Code, Problem};

/// Tenants remembered before those without a place are forgotten.
const KEPT_TENANTS: usize = 1_024;

/// Places of each tenant.
#[derive(Debug)]
pub(crate) struct TenantSemaphores {
    limit: usize,
    tenants: Mutex<HashMap<TenantId, Arc<Semaphore>>>,
}

impl TenantSemaphores {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, tenants: Mutex::default() }
    }

    /// A place, if the tenant has one left.
    pub(crate) fn try_take(&self, tenant: &TenantId) -> Option<OwnedSemaphorePermit> {
        self.of(tenant).try_acquire_owned().ok()
    }

    fn of(&self, tenant: &TenantId) -> Arc<Semaphore> {
        // No panic can leave the map half changed.
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = tenants.get(tenant) {
            return places.clone();
        }
        if tenants.len() >= KEPT_TENANTS {
            // Places that are taken or waited for are held by others, too.
            tenants.retain(|_, places| Arc::strong_count(places) > 1);
        }
        let places = Arc::new(Semaphore::new(self.limit));
        tenants.insert(tenant.clone(), places.clone());
        places
    }
}

/// Expensive work: requests wait for their turn, for a while.
#[derive(Debug)]
pub(crate) struct FairSemaphore {
    all: Arc<Semaphore>,
    tenants: TenantSemaphores,
    wait: Duration,
}

/// A turn: ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    _own: OwnedSemaphorePermit,
    _shared: OwnedSemaphorePermit,
}

impl FairSemaphore {
    pub(crate) fn new(all: usize, one_tenants: usize, wait: Duration) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), tenants: TenantSemaphores::new(one_tenants), wait }
    }

    /// A turn, in the order of asking.
    pub(crate) async fn take(&self, tenant: &TenantId) -> Result<Permit, Problem> {
        let own = self.tenants.of(tenant);
        let both = async {
            // The tenant's own first: while it waits for that, it is in nobody's way.
            let own = own.acquire_owned().await.ok()?;
            Some(Permit { _own: own, _shared: self.all.clone().acquire_owned().await.ok()? })
        };
        let late = || {
            let detail = format!("the turn did not come within {} s; send fewer at once", self.wait.as_secs());
            Problem::new(Code::Overloaded, detail)
        };
        tokio::time::timeout(self.wait, both).await.ok().flatten().ok_or_else(late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    #[test]
    fn one_tenant_cannot_take_the_places_of_another() {
        let places = TenantSemaphores::new(2);
        let held = [places.try_take(&tenant("a")).unwrap(), places.try_take(&tenant("a")).unwrap()];
        assert!(places.try_take(&tenant("a")).is_none());
        assert!(places.try_take(&tenant("b")).is_some());
        drop(held);
        assert!(places.try_take(&tenant("a")).is_some());
    }

    #[test]
    fn tenants_without_a_place_are_forgotten() {
        let places = TenantSemaphores::new(1);
        let held = places.try_take(&tenant("a")).unwrap();
        for n in 0..2 * KEPT_TENANTS {
            assert!(places.try_take(&tenant(&format!("t{n}"))).is_some());
        }
        assert!(places.tenants.lock().unwrap().len() <= KEPT_TENANTS);
        assert!(places.try_take(&tenant("a")).is_none(), "a place that is taken is remembered");
        drop(held);
    }

    #[tokio::test]
    async fn a_turn_that_does_not_come_is_overloaded_for_that_tenant_only() {
        let turns = FairSemaphore::new(3, 2, Duration::from_millis(20));
        let _held = [turns.take(&tenant("a")).await.unwrap(), turns.take(&tenant("a")).await.unwrap()];
        assert_eq!(turns.take(&tenant("a")).await.unwrap_err().code(), "overloaded");
        let _other = turns.take(&tenant("b")).await.unwrap();
        assert_eq!(turns.take(&tenant("b")).await.unwrap_err().code(), "overloaded", "all places are taken");
    }
}
