//! Claims: actions of a tenant that are just being stored. A server that starts one writes a claim here first, and only if
//! nobody else wrote meanwhile. So two servers that start actions at once see each other: no more actions run than may, and
//! an idempotency key is used once.
//!
//! An action that was claimed and not stored, because its server died, is stored by the next request with its key. Its claim
//! counts as running until it is so old that no server can still be storing it.

use serde::{Deserialize, Serialize};
use umbel_broker::{Broker, DocumentKind, DocumentPut, Expect, Result};
use umbel_model::{JobId, TenantId};

use crate::{
    Bulk,
    bulk::{MAX_TRIES, ORPHAN_MS},
    documents,
};

/// The document's name. It begins as those in the index do, which a list of actions passes over, in older releases, too.
pub(crate) const CLAIMS: &str = "run:claims";

#[derive(Default, Serialize, Deserialize)]
struct Body {
    claims: Vec<Bulk>,
}

/// The actions that are being stored, and the condition of the next write.
pub(crate) async fn read(broker: &dyn Broker, tenant: &TenantId) -> Result<(Vec<Bulk>, Expect)> {
    let Some(found) = broker.document(tenant, DocumentKind::Bulk, CLAIMS).await? else {
        return Ok((Vec::new(), Expect::Absent));
    };
    let body: Body = serde_json::from_str(&found.body).unwrap_or_else(|error| {
        // It is of a moment only: it must not keep all later actions from being started.
        tracing::error!(%tenant, %error, "which actions on many jobs are being started cannot be read");
        Body::default()
    });
    Ok((body.claims, Expect::Version(found.version)))
}

/// Writes the claims.
pub(crate) async fn write(
    broker: &dyn Broker,
    tenant: &TenantId,
    claims: Vec<Bulk>,
    expect: Expect,
) -> Result<DocumentPut> {
    let body = (!claims.is_empty()).then_some(Body { claims });
    documents::write(broker, tenant, CLAIMS.to_owned(), expect, body.as_ref()).await
}

/// The claims whose actions are not stored yet, by the clock of the server that starts the next one.
pub(crate) fn open(claims: Vec<Bulk>, kept: &[Bulk], now: u64) -> Vec<Bulk> {
    let young = |claim: &Bulk| claim.created_at.saturating_add(ORPHAN_MS) > now;
    claims.into_iter().filter(|claim| young(claim) && !kept.iter().any(|bulk| bulk.id == claim.id)).collect()
}

/// Removes the claim of an action that cannot be stored.
pub(crate) async fn release(broker: &dyn Broker, tenant: &TenantId, id: JobId) -> Result<()> {
    for _ in 0..MAX_TRIES {
        let (mut claims, expect) = read(broker, tenant).await?;
        let before = claims.len();
        claims.retain(|claim| claim.id != id);
        if claims.len() == before || matches!(write(broker, tenant, claims, expect).await?, DocumentPut::Stored(_)) {
            break;
        }
    }
    Ok(())
}
