//! The footprint of a request: its place among those under way, and its part of the memory that bodies and answers may take. It
//! keeps both until the last piece of the answer was given to its connection, so that a client that reads slowly pays for them.
//!
//! A footprint belongs to the task of its request (as the span of its log lines does), so that whatever reads a large value for
//! the request can count it, however deep it is called.

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

tokio::task_local! {
    static CURRENT: Arc<Footprint>;
}

/// What one request holds.
#[derive(Debug)]
pub(crate) struct Footprint {
    tenant: TenantId,
    parts: Mutex<Parts>,
}

#[derive(Debug, Default)]
struct Parts {
    /// Its place among the requests under way; none while it waits.
    place: Option<Permit>,
    /// Room for its own body.
    body: Option<Permit>,
    /// Bytes of memory that `rest` stands for.
    bytes: usize,
    /// The number of such answers is limited, and with it their bytes.
    is_counted: bool,
    rest: Vec<Permit>,
}

/// An answer without an end, which has a permit of its own.
#[derive(Debug, Clone)]
pub(crate) struct Endless;

impl Footprint {
    pub(crate) fn new(tenant: TenantId, place: Permit) -> Arc<Self> {
        Arc::new(Self { tenant, parts: Mutex::new(Parts { place: Some(place), ..Parts::default() }) })
    }

    /// Does `work`, which takes the request's part in what is held.
    pub(crate) async fn scope<F: Future>(self: Arc<Self>, work: F) -> F::Output {
        CURRENT.scope(self, work).await
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        // No panic can leave them half changed.
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn with_parts(change: impl FnOnce(&mut Parts)) {
    // Outside of a request nothing is held.
    let _ = CURRENT.try_with(|footprint| change(&mut footprint.parts()));
}

/// Holds a permit that limits the number of such answers, until the answer is written.
pub(crate) fn keep(permit: Permit) {
    with_parts(|parts| {
        parts.is_counted = true;
        parts.rest.push(permit);
    });
}

/// Takes a place among the requests that wait, and gives up the one among those under way, and the room for its body, which must
/// be gone. A refusal says when to ask again.
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
        parts.body = None;
        parts.rest.push(permit);
    });
    Ok(())
}

/// A part of the memory that answers may take.
#[derive(Debug)]
#[must_use]
pub(crate) struct Reserved(Permit);

/// Waits for room for a value of so many bytes, before it is read.
pub(crate) async fn reserve(api: &Api, tenant: &TenantId, bytes: usize) -> Result<Reserved> {
    api.answers.reserve(tenant, bytes).await.map(Reserved)
}

/// Waits for room for a body of so many bytes, before it is read. It is held until the request waits or is answered.
pub(crate) async fn room_for_body(api: &Api, bytes: usize) -> Result<()> {
    // Outside of a request nothing is held.
    let Ok(tenant) = CURRENT.try_with(|footprint| footprint.tenant.clone()) else { return Ok(()) };
    if bytes > PIECE_BYTES {
        let permit = api.bodies.reserve(&tenant, bytes).await?;
        with_parts(|parts| parts.body = Some(permit));
    }
    Ok(())
}

/// The turn of the request's tenant among those whose long texts are checked; none outside of a request.
pub(crate) async fn turn_to_check(api: &Api) -> Option<Permit> {
    let tenant = CURRENT.try_with(|footprint| footprint.tenant.clone()).ok()?;
    api.checks.turn(&tenant).await
}

impl Reserved {
    /// Holds as much of it as the value took, until the answer is written.
    pub(crate) fn keep(self, bytes: usize) {
        let Self(mut permit) = self;
        permit.shrink_to(bytes);
        with_parts(|parts| {
            parts.bytes += bytes;
            parts.rest.push(permit);
        });
    }
}

/// The response, which holds what its request held until it is written. A large one whose room was not reserved waits for that.
pub(crate) async fn guarded(api: &Api, footprint: Arc<Footprint>, response: Response) -> Result {
    let bytes = response.body().size_hint().exact();
    if response.extensions().get::<Endless>().is_some() || bytes.is_some_and(|bytes| bytes <= PIECE_BYTES as u64) {
        return Ok(response);
    }
    let missing = {
        let mut parts = footprint.parts();
        parts.body = None;
        let bytes = bytes.map_or(0, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        // Waiting for a little more while much is held could lock readers out of each other.
        if parts.is_counted || parts.bytes > 0 { 0 } else { bytes }
    };
    if missing > 0 {
        let Reserved(permit) = reserve(api, &footprint.tenant, missing).await?;
        footprint.parts().rest.push(permit);
    }
    Ok(response.map(|whole| in_pieces(whole, footprint)))
}
