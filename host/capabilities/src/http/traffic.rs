//! Counts the bytes of one attempt and of its tenant, and says when there are too many.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;
use umbel_model::TenantId;

use crate::{
    http::{
        config::{AttemptLimits, TenantLimits},
        error::HttpError,
    },
    meter::Meter,
};

/// What tenants use in this process.
#[derive(Debug)]
pub(crate) struct Tenants {
    limits: TenantLimits,
    known: Mutex<HashMap<TenantId, Arc<TenantUse>>>,
}

/// What the attempts of one tenant use together.
#[derive(Debug)]
pub(crate) struct TenantUse {
    limits: TenantLimits,
    pub(crate) permits: Arc<Semaphore>,
    minute: Mutex<Minute>,
}

#[derive(Debug)]
struct Minute {
    began: Instant,
    requests: u64,
    bytes: u64,
}

const MINUTE: Duration = Duration::from_secs(60);
/// Beyond so many tenants, those that use nothing are forgotten.
const KEPT_TENANTS: usize = 1_024;

impl Tenants {
    pub(crate) fn new(limits: TenantLimits) -> Self {
        Self { limits, known: Mutex::default() }
    }

    pub(crate) fn of(&self, tenant: &TenantId) -> Arc<TenantUse> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(tenant) {
            return found.clone();
        }
        if known.len() >= KEPT_TENANTS {
            known.retain(|_, used| Arc::strong_count(used) > 1 || !used.is_over());
        }
        let new = Arc::new(TenantUse {
            limits: self.limits,
            permits: Arc::new(Semaphore::new(self.limits.concurrent)),
            minute: Mutex::new(Minute { began: Instant::now(), requests: 0, bytes: 0 }),
        });
        known.insert(tenant.clone(), new.clone());
        new
    }
}

impl TenantUse {
    fn is_over(&self) -> bool {
        self.minute.lock().unwrap_or_else(PoisonError::into_inner).began.elapsed() >= MINUTE
    }

    pub(crate) fn request(&self) -> Result<(), HttpError> {
        let mut minute = self.this_minute();
        minute.requests += 1;
        let fits = minute.requests <= self.limits.requests_per_minute;
        fits.then_some(()).ok_or(HttpError::TenantLimit("requests"))
    }

    fn bytes(&self, bytes: u64) -> Result<(), HttpError> {
        let mut minute = self.this_minute();
        minute.bytes += bytes;
        let fits = minute.bytes <= self.limits.bytes_per_minute;
        fits.then_some(()).ok_or(HttpError::TenantLimit("bytes"))
    }

    fn this_minute(&self) -> std::sync::MutexGuard<'_, Minute> {
        let mut minute = self.minute.lock().unwrap_or_else(PoisonError::into_inner);
        if minute.began.elapsed() >= MINUTE {
            *minute = Minute { began: Instant::now(), requests: 0, bytes: 0 };
        }
        minute
    }
}

/// Counts what one attempt sends and receives.
#[derive(Debug)]
pub(crate) struct Traffic {
    pub(crate) meter: Arc<Meter>,
    pub(crate) limits: AttemptLimits,
    pub(crate) tenant: Arc<TenantUse>,
}

impl Traffic {
    /// One more request of the attempt.
    pub(crate) fn request(&self) -> Result<(), HttpError> {
        if self.meter.http_request() > self.limits.requests {
            return Err(HttpError::TooManyRequests(self.limits.requests));
        }
        self.tenant.request()
    }

    pub(crate) fn sent(&self, bytes: usize) -> Result<(), HttpError> {
        if self.meter.http_sent(bytes as u64) > self.limits.bytes_out {
            return Err(HttpError::BytesOut(self.limits.bytes_out));
        }
        self.tenant.bytes(bytes as u64)
    }

    pub(crate) fn received(&self, bytes: usize) -> Result<(), HttpError> {
        if self.meter.http_received(bytes as u64) > self.limits.bytes_in {
            return Err(HttpError::BytesIn(self.limits.bytes_in));
        }
        self.tenant.bytes(bytes as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(attempt: AttemptLimits, tenant: TenantLimits) -> Traffic {
        let tenant = Tenants::new(tenant).of(&TenantId::new("t").unwrap());
        Traffic { meter: Arc::default(), limits: attempt, tenant }
    }

    #[test]
    fn an_attempt_is_stopped_at_its_limits() {
        let limits = AttemptLimits { requests: 1, bytes_out: 10, bytes_in: 20, ..AttemptLimits::default() };
        let traffic = traffic(limits, TenantLimits::default());
        assert_eq!(traffic.request(), Ok(()));
        assert_eq!(traffic.request(), Err(HttpError::TooManyRequests(1)));
        assert_eq!(traffic.sent(10), Ok(()));
        assert_eq!(traffic.sent(1), Err(HttpError::BytesOut(10)));
        assert_eq!(traffic.received(20), Ok(()));
        assert_eq!(traffic.received(1), Err(HttpError::BytesIn(20)));
        let metered = traffic.meter.read();
        assert_eq!((metered.http_requests, metered.http_bytes_out, metered.http_bytes_in), (2, 11, 21));
    }

    #[test]
    fn attempts_of_a_tenant_share_its_limits() {
        let limits = TenantLimits { requests_per_minute: 1, bytes_per_minute: 10, ..TenantLimits::default() };
        let traffic = traffic(AttemptLimits::default(), limits);
        assert_eq!(traffic.request(), Ok(()));
        assert_eq!(traffic.request(), Err(HttpError::TenantLimit("requests")));
        assert_eq!(traffic.sent(6), Ok(()));
        assert_eq!(traffic.received(6), Err(HttpError::TenantLimit("bytes")));
    }

    #[test]
    fn tenants_that_use_nothing_are_forgotten() {
        let tenants = Tenants::new(TenantLimits::default());
        let of = |n: usize| tenants.of(&TenantId::new(format!("t{n}")).unwrap());
        let held = of(0);
        for n in 1..KEPT_TENANTS {
            of(n).minute.lock().unwrap().began = Instant::now().checked_sub(MINUTE).unwrap();
        }
        held.minute.lock().unwrap().began = Instant::now().checked_sub(MINUTE).unwrap();
        of(KEPT_TENANTS);
        assert_eq!(tenants.known.lock().unwrap().len(), 2);
    }
}
