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
struct TenantSemaphores {
    limit: usize,
    tenants: Mutex<HashMap<TenantId, Arc<Semaphore>>>,
}

impl TenantSemaphores {
    /// `limit` permits for each tenant.
    fn new(limit: usize) -> Self {
        Self { limit, tenants: Mutex::default() }
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
pub(crate) struct Permit {
    own: OwnedSemaphorePermit,
    shared: OwnedSemaphorePermit,
}

impl Permit {
    /// Gives back what is over `count`.
    pub(crate) fn shrink(&mut self, count: usize) {
        for permits in [&mut self.own, &mut self.shared] {
            drop(permits.split(permits.num_permits().saturating_sub(count)));
        }
    }
}

impl FairSemaphore {
    /// `all` permits, at most `one_tenants` of them for one tenant; waits for one for `wait`.
    pub(crate) fn new(all: usize, one_tenants: usize, wait: Duration) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), tenants: TenantSemaphores::new(one_tenants), wait }
    }

    /// A permit, in the order of asking, however long it takes. Closed never.
    pub(crate) async fn turn(&self, tenant: &TenantId) -> Option<Permit> {
        self.turn_of(tenant, 1).await
    }

    async fn turn_of(&self, tenant: &TenantId, count: usize) -> Option<Permit> {
        let count = if count > 1 { count.min(self.tenants.limit).max(1) } else { count };
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        // The tenant's own first: while it waits for that, it holds up nobody else.
        let own = self.tenants.of(tenant).acquire_many_owned(count).await.ok()?;
        Some(Permit { own, shared: self.all.clone().acquire_many_owned(count).await.ok()? })
    }

    /// A permit, if there is one now.
    pub(crate) fn try_acquire(&self, tenant: &TenantId) -> Option<Permit> {
        self.try_acquire_many(tenant, 1)
    }

    /// So many permits, if there are as many now.
    pub(crate) fn try_acquire_many(&self, tenant: &TenantId, count: usize) -> Option<Permit> {
        let count = u32::try_from(count).ok()?;
        let own = self.tenants.of(tenant).try_acquire_many_owned(count).ok()?;
        Some(Permit { own, shared: self.all.clone().try_acquire_many_owned(count).ok()? })
    }

    /// Permits that nobody holds.
    #[cfg(test)]
    pub(crate) fn free(&self) -> usize {
        self.all.available_permits()
    }

    /// A permit, in the order of asking.
    pub(crate) async fn acquire(&self, tenant: &TenantId) -> Result<Permit> {
        self.acquire_many(tenant, 1).await
    }

    /// So many permits at once; all of a tenant's when it may not have so many.
    pub(crate) async fn acquire_many(&self, tenant: &TenantId, count: usize) -> Result<Permit> {
        let late = || {
            let seconds = self.wait.as_secs();
            Problem::overloaded(format!("no permit became free within {seconds} s; send fewer requests at once"))
        };
        tokio::time::timeout(self.wait, self.turn_of(tenant, count)).await.ok().flatten().ok_or_else(late)
    }
}

/// Bytes of the units in which memory is counted.
const UNIT_BYTES: usize = 1 << 10;

/// Memory that requests may take. Small parts of it have room of their own: when some tenants have taken all, each other one has
/// some left.
#[derive(Debug)]
pub(crate) struct Memory {
    usual: FairSemaphore,
    small: FairSemaphore,
}

impl Memory {
    /// Bytes in all and of one tenant; of small parts as many. Waits for room for `wait`.
    pub(crate) fn new(usual: (usize, usize), small: (usize, usize), wait: Duration) -> Self {
        let room = |(all, one_tenants)| FairSemaphore::new(all / UNIT_BYTES, one_tenants / UNIT_BYTES, wait);
        Self { usual: room(usual), small: room(small) }
    }

    /// Room for so many bytes.
    pub(crate) async fn reserve(&self, tenant: &TenantId, bytes: usize) -> Result<Permit> {
        let units = bytes.div_ceil(UNIT_BYTES);
        if let Some(permit) = self.small.try_acquire_many(tenant, units) {
            return Ok(permit);
        }
        self.usual.acquire_many(tenant, units).await
    }
}

impl Permit {
    /// Gives back the room that is over `bytes`.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        self.shrink(bytes.div_ceil(UNIT_BYTES));
    }
}

/// Places for requests under way. Some are reserved: a few for each tenant, for when the others are taken, and for what
/// controls: a tenant can cancel and pause whatever else it has under way, and another one's flood leaves it some.
#[derive(Debug)]
pub(crate) struct Places {
    usual: FairSemaphore,
    reserved: FairSemaphore,
}

impl Places {
    /// `all` and `one_tenants` places, and of the reserved ones as many.
    pub(crate) fn new((all, one_tenants): (usize, usize), (reserved, one_tenants_reserved): (usize, usize)) -> Self {
        let places = |all, one_tenants| FairSemaphore::new(all, one_tenants, Duration::ZERO);
        Self { usual: places(all, one_tenants), reserved: places(reserved, one_tenants_reserved) }
    }

    /// A place for a request that controls, or for another one.
    pub(crate) fn take(&self, tenant: &TenantId, controls: bool) -> Result<Permit> {
        if let Some(place) = self.usual.try_acquire(tenant) {
            return Ok(place);
        }
        let has_its_part = self.usual.tenants.of(tenant).available_permits() == 0;
        let reserved = (controls || !has_its_part).then(|| self.reserved.try_acquire(tenant)).flatten();
        reserved.ok_or_else(|| {
            let max = self.usual.tenants.limit;
            if has_its_part {
                Problem::too_many_requests(format!("a tenant has at most {max} requests under way"))
            } else {
                Problem::overloaded("try again in a second")
            }
        })
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
        let semaphores = FairSemaphore::new(10, 2, Duration::ZERO);
        let held = [semaphores.try_acquire(&tenant("a")).unwrap(), semaphores.try_acquire(&tenant("a")).unwrap()];
        assert!(semaphores.try_acquire(&tenant("a")).is_none());
        assert!(semaphores.try_acquire(&tenant("b")).is_some());
        drop(held);
        assert!(semaphores.try_acquire(&tenant("a")).is_some());
    }

    #[test]
    fn what_controls_has_a_place_when_a_tenant_has_taken_all_of_its_own() {
        let places = Places::new((10, 2), (2, 1));
        let _held = [places.take(&tenant("a"), false).unwrap(), places.take(&tenant("a"), false).unwrap()];
        assert_eq!(places.take(&tenant("a"), false).unwrap_err().code(), "too_many_requests");
        let _control = places.take(&tenant("a"), true).unwrap();
        assert_eq!(places.take(&tenant("a"), true).unwrap_err().code(), "too_many_requests");
    }

    #[test]
    fn tenants_that_take_all_places_leave_some_for_another() {
        let places = Places::new((2, 1), (2, 1));
        let _held = [places.take(&tenant("a"), false).unwrap(), places.take(&tenant("b"), false).unwrap()];
        let _place = places.take(&tenant("c"), false).unwrap();
        assert_eq!(places.take(&tenant("c"), false).unwrap_err().code(), "overloaded");
    }

    #[tokio::test]
    async fn a_part_of_many_permits_is_given_back() {
        let bytes = FairSemaphore::new(100, 50, Duration::from_millis(20));
        let mut held = bytes.acquire_many(&tenant("a"), 1_000).await.unwrap();
        assert_eq!(bytes.free(), 50, "no tenant has more than its part");
        assert_eq!(bytes.acquire_many(&tenant("a"), 1).await.unwrap_err().code(), "overloaded");
        held.shrink(10);
        assert_eq!(bytes.free(), 90);
        let _more = bytes.acquire_many(&tenant("a"), 40).await.unwrap();
        drop(held);
        assert_eq!(bytes.free(), 60);
    }

    #[tokio::test]
    async fn memory_that_some_tenants_took_leaves_a_small_part_to_another() {
        let memory = Memory::new((8 << 10, 8 << 10), (4 << 10, 2 << 10), Duration::from_millis(20));
        let _all = memory.reserve(&tenant("a"), 8 << 10).await.unwrap();
        assert_eq!(memory.reserve(&tenant("b"), 3 << 10).await.unwrap_err().code(), "overloaded");
        let _small = memory.reserve(&tenant("b"), 2 << 10).await.unwrap();
        assert_eq!(memory.reserve(&tenant("b"), 1).await.unwrap_err().code(), "overloaded");
    }

    #[test]
    fn tenants_without_a_permit_are_forgotten() {
        let semaphores = FairSemaphore::new(10, 1, Duration::ZERO);
        let held = semaphores.try_acquire(&tenant("a")).unwrap();
        for n in 0..2 * KEPT_TENANTS {
            assert!(semaphores.try_acquire(&tenant(&format!("t{n}"))).is_some());
        }
        assert!(semaphores.tenants.tenants.lock().unwrap().len() <= KEPT_TENANTS);
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
