//! What a request holds: its place among those under way, and its part of the memory that answers may take. Both are held until
//! the last piece of the answer was given to its connection, so that a client that reads slowly pays for what it keeps.
//!
//! What a request holds belongs to its task (as the span of its log lines does), so that whatever reads a large value on its
//! behalf can say so, however deep it is called.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{body::HttpBody as _, response::Response};
use umbel_model::TenantId;

use crate::{
    admission::Permit,
    guarded_body::{PIECE_BYTES, in_pieces},
    problem::{Problem, Result},
    state::Api,
};

/// Permits for the memory of answers are counted in units of so many bytes.
pub(crate) const UNIT_BYTES: usize = 1 << 10;

/// Room of each tenant for answers that are no larger than this.
pub(crate) const SMALL_ANSWER_BYTES: usize = 1 << 20;
/// Room for such answers of all tenants.
pub(crate) const SMALL_ANSWERS_BYTES: usize = 64 << 20;

tokio::task_local! {
    static HELD: Arc<Held>;
}

/// What one request holds.
#[derive(Debug, Default)]
pub(crate) struct Held(Mutex<Parts>);

#[derive(Debug, Default)]
struct Parts {
    /// Its place among the requests under way; none while it waits.
    place: Option<Permit>,
    /// Bytes of memory that `rest` stands for.
    bytes: usize,
    /// The number of such answers is limited, and with it their bytes.
    is_counted: bool,
    rest: Vec<Permit>,
}

/// An answer without an end, which has a permit of its own.
#[derive(Debug, Clone)]
pub(crate) struct Endless;

impl Held {
    pub(crate) fn new(place: Permit) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Parts { place: Some(place), ..Parts::default() })))
    }

    /// Does `work`, which takes the request's part in what is held.
    pub(crate) async fn scope<F: Future>(self: Arc<Self>, work: F) -> F::Output {
        HELD.scope(self, work).await
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        // No panic can leave them half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn with_parts(change: impl FnOnce(&mut Parts)) {
    // Outside of a request nothing is held.
    let _ = HELD.try_with(|held| change(&mut held.parts()));
}

/// Holds a permit that limits the number of such answers, until the answer is written.
pub(crate) fn keep(permit: Permit) {
    with_parts(|parts| {
        parts.is_counted = true;
        parts.rest.push(permit);
    });
}

/// Takes a place among the requests that wait, and gives up the one among those under way. A refusal says when to ask again.
pub(crate) fn wait(api: &Api, tenant: &TenantId, wait: Duration) -> Result<()> {
    if wait.is_zero() {
        return Ok(());
    }
    let permit = api.waits.try_acquire(tenant).ok_or_else(|| {
        let max = api.config.max_tenant_waits;
        Problem::too_many_requests(format!("too many requests wait; a tenant has at most {max}: ask without `wait`"))
    })?;
    with_parts(|parts| {
        parts.place = None;
        parts.rest.push(permit);
    });
    Ok(())
}

/// A part of the memory that answers may take.
#[derive(Debug)]
#[must_use]
pub(crate) struct Reserved(Permit);

/// Waits for room for a value of so many bytes, before it is read. A small one has room when other tenants have taken all.
pub(crate) async fn reserve(api: &Api, tenant: &TenantId, bytes: usize) -> Result<Reserved> {
    let units = bytes.div_ceil(UNIT_BYTES);
    if bytes <= SMALL_ANSWER_BYTES
        && let Some(permit) = api.small_answers.try_acquire_many(tenant, units)
    {
        return Ok(Reserved(permit));
    }
    api.answers.acquire_many(tenant, units).await.map(Reserved)
}

impl Reserved {
    /// Holds as much of it as the value took, until the answer is written.
    pub(crate) fn keep(self, bytes: usize) {
        let Self(mut permit) = self;
        permit.shrink(bytes.div_ceil(UNIT_BYTES));
        with_parts(|parts| {
            parts.bytes += bytes;
            parts.rest.push(permit);
        });
    }
}

/// The response, which holds what its request held until it is written. A large one whose room was not reserved waits for that.
pub(crate) async fn guarded(api: &Api, tenant: &TenantId, held: Arc<Held>, response: Response) -> Result {
    let bytes = response.body().size_hint().exact();
    if response.extensions().get::<Endless>().is_some() || bytes.is_some_and(|bytes| bytes <= PIECE_BYTES as u64) {
        return Ok(response);
    }
    let missing = {
        let parts = held.parts();
        let bytes = bytes.map_or(0, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        // Waiting for a little more while much is held could lock readers out of each other.
        if parts.is_counted || parts.bytes > 0 { 0 } else { bytes }
    };
    if missing > 0 {
        let Reserved(permit) = reserve(api, tenant, missing).await?;
        held.parts().rest.push(permit);
    }
    Ok(response.map(|whole| in_pieces(whole, held)))
}
