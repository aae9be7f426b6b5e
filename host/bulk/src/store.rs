//! Where actions are kept: one document each under their tenant, and, while they run, an entry in an index of all tenants'.
//!
//! The entry is written before the document and deleted after the action has ended, so that nothing that runs is forgotten.

use serde::{Deserialize, Serialize};
use umbel_broker::{Broker, Document, DocumentKind, DocumentPut, Error, Expect, Result};
use umbel_model::{JobId, TenantId, UnixMs};

use crate::{
    Action, Bulk, State,
    bulk::{MAX_TRIES, ORPHAN_MS},
    documents::{readable, system_tenant, write},
    start_claims,
};

/// Actions kept of one tenant; the oldest that ended make room.
pub const MAX_KEPT: usize = 100;
/// Actions of one tenant that run at once.
pub const MAX_RUNNING: usize = 10;
/// How names in the index begin: no action's id does.
const INDEX: &str = "run:";

/// The answer to a submission.
#[derive(Debug)]
pub enum Started {
    Created(Box<Bulk>),
    /// The same submission was made before.
    Existing(Box<Bulk>),
    /// The key belongs to a submission with another body.
    Conflict(JobId),
    /// So many run, or are kept, as may.
    TooMany,
}

/// The answer to an abort.
#[derive(Debug)]
pub enum Aborted {
    Aborted(Box<Bulk>),
    /// It had ended.
    Over(Box<Bulk>),
    NotFound,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    tenant: TenantId,
    id: JobId,
    at: UnixMs,
}

fn index_name(tenant: &TenantId, id: JobId) -> String {
    format!("{INDEX}{tenant}:{id}")
}

fn corrupt(error: &serde_json::Error) -> Error {
    Error::Corrupt(format!("an action on many jobs: {error}"))
}

pub(crate) async fn put(broker: &dyn Broker, tenant: &TenantId, bulk: &Bulk, expect: Expect) -> Result<DocumentPut> {
    write(broker, tenant, bulk.id.to_string(), expect, Some(bulk)).await
}

/// Writes an action over the version that was read; false when somebody else wrote meanwhile.
pub(crate) async fn put_over(broker: &dyn Broker, tenant: &TenantId, bulk: &Bulk, version: u64) -> Result<bool> {
    Ok(matches!(put(broker, tenant, bulk, Expect::Version(version)).await?, DocumentPut::Stored(_)))
}

/// An action and its version.
pub(crate) async fn read(broker: &dyn Broker, tenant: &TenantId, id: JobId) -> Result<Option<(Bulk, u64)>> {
    let Some(found) = broker.document(tenant, DocumentKind::Bulk, &id.to_string()).await? else { return Ok(None) };
    Ok(Some((serde_json::from_str(&found.body).map_err(|e| corrupt(&e))?, found.version)))
}

/// One action; none when the tenant has no such action (any more).
pub async fn load(broker: &dyn Broker, tenant: &TenantId, id: JobId) -> Result<Option<Bulk>> {
    Ok(read(broker, tenant, id).await?.map(|(bulk, _)| bulk))
}

/// Documents of actions by name, after `after`, at most `max`: as many pages as that takes.
async fn documents(broker: &dyn Broker, tenant: &TenantId, after: Option<&str>, max: u32) -> Result<Vec<Document>> {
    let mut page = broker.documents(tenant, DocumentKind::Bulk, after, max).await?;
    let mut found = std::mem::take(&mut page.documents);
    while let Some(next) = page.next.filter(|_| found.len() < max as usize) {
        page = broker.documents(tenant, DocumentKind::Bulk, Some(&next), max - found.len() as u32).await?;
        found.append(&mut page.documents);
    }
    Ok(found)
}

/// The tenant's actions, newest first.
pub async fn list(broker: &dyn Broker, tenant: &TenantId) -> Result<Vec<Bulk>> {
    // In the tenant of the index there may be many entries besides.
    let max = (MAX_KEPT + MAX_RUNNING) as u32;
    let found = documents(broker, tenant, None, max).await?;
    let own = found.iter().filter(|document| !document.name.starts_with(INDEX));
    // The others are there; whoever carries it out ends it.
    let mut bulks: Vec<Bulk> = own.filter_map(readable).collect();
    bulks.sort_by_key(|bulk| std::cmp::Reverse((bulk.created_at, bulk.id)));
    Ok(bulks)
}

/// Stores a new action; the control service finds it there.
pub async fn start(broker: &dyn Broker, tenant: &TenantId, bulk: Bulk) -> Result<Started> {
    for _ in 0..MAX_TRIES {
        // These before those that are kept: one that is in neither is written down only after this was read, and then this
        // start's own claim is refused.
        let (claimed, expect) = start_claims::read(broker, tenant).await?;
        let kept = list(broker, tenant).await?;
        // The model answers at once: here others come between, as they do with a real broker.
        #[cfg(test)]
        tokio::task::yield_now().await;
        if let Some(known) = with_key_of(&bulk, &kept) {
            return Ok(answer_of(&bulk, known, Started::Existing));
        }
        let mut open = start_claims::open(claimed, &kept, bulk.created_at);
        if let Some(known) = with_key_of(&bulk, &open) {
            // Whoever claimed it may have died.
            return match answer_of(&bulk, known, Started::Created) {
                Started::Created(known) => Ok(match store(broker, tenant, *known).await? {
                    Started::Created(known) => Started::Existing(known),
                    other => other,
                }),
                other => Ok(other),
            };
        }
        if kept.iter().filter(|bulk| !bulk.is_over()).count() + open.len() >= MAX_RUNNING {
            return Ok(Started::TooMany);
        }
        open.push(bulk.clone());
        match start_claims::write(broker, tenant, open, expect).await? {
            DocumentPut::Stored(_) => {}
            DocumentPut::Conflict(_) => continue,
            DocumentPut::Full | DocumentPut::StorageFull => return Ok(Started::TooMany),
        }
        for old in kept.iter().skip(MAX_KEPT - 1).filter(|old| old.is_over()) {
            delete(broker, tenant, &old.id.to_string()).await?;
        }
        return store(broker, tenant, bulk).await;
    }
    Err(Error::Unavailable("too many actions on many jobs are started at once".into()))
}

/// The action that was started with the same key.
fn with_key_of<'a>(bulk: &Bulk, among: &'a [Bulk]) -> Option<&'a Bulk> {
    let (key, _) = bulk.key.as_ref()?;
    among.iter().find(|known| known.key.as_ref().is_some_and(|(other, _)| other == key))
}

/// `known` has the key of `bulk`: it is the answer if it is the same submission.
fn answer_of(bulk: &Bulk, known: &Bulk, same: impl FnOnce(Box<Bulk>) -> Started) -> Started {
    if known.key == bulk.key { same(Box::new(known.clone())) } else { Started::Conflict(known.id) }
}

/// Stores an action that was claimed.
async fn store(broker: &dyn Broker, tenant: &TenantId, bulk: Bulk) -> Result<Started> {
    let entry = Entry { tenant: tenant.clone(), id: bulk.id, at: bulk.created_at };
    let name = index_name(tenant, bulk.id);
    if write(broker, &system_tenant(), name, Expect::Any, Some(&entry)).await? == DocumentPut::Full {
        start_claims::release(broker, tenant, bulk.id).await?;
        return Ok(Started::TooMany);
    }
    match put(broker, tenant, &bulk, Expect::Absent).await? {
        // A conflict is this very action, which somebody with its key stored, or whose first answer was lost.
        DocumentPut::Stored(_) | DocumentPut::Conflict(_) => Ok(Started::Created(Box::new(bulk))),
        DocumentPut::Full | DocumentPut::StorageFull => {
            drop_entry(broker, tenant, bulk.id).await?;
            start_claims::release(broker, tenant, bulk.id).await?;
            Ok(Started::TooMany)
        }
    }
}

/// Ends an action whose document cannot be read, with what can be read of it.
pub(crate) async fn bury(broker: &dyn Broker, tenant: &TenantId, id: JobId, now: UnixMs) -> Result<()> {
    let Some(found) = broker.document(tenant, DocumentKind::Bulk, &id.to_string()).await? else { return Ok(()) };
    let Err(error) = serde_json::from_str::<Bulk>(&found.body) else { return Ok(()) };
    tracing::error!(%tenant, bulk = %id, %error, "an action on many jobs cannot be read, and ends");
    let old: serde_json::Value = serde_json::from_str(&found.body).unwrap_or_default();
    let number = |name: &str| old[name].as_u64().unwrap_or(0);
    let action = serde_json::from_value(old["action"].clone()).unwrap_or(Action::Cancel);
    let filter = serde_json::from_value(old["filter"].clone()).unwrap_or_default();
    let created_at = old["created_at"].as_u64().unwrap_or(now);
    let bulk = Bulk {
        state: State::Failed,
        finished_at: Some(now),
        error: Some("what is stored of it cannot be read; what it did stays done".into()),
        key: serde_json::from_value(old["key"].clone()).unwrap_or_default(),
        matched: number("matched"),
        done: number("done"),
        skipped: number("skipped"),
        failed: number("failed"),
        ..Bulk::new(id, action, filter, created_at)
    };
    // If somebody else wrote it, it is looked at again.
    if put_over(broker, tenant, &bulk, found.version).await? { drop_entry(broker, tenant, id).await } else { Ok(()) }
}

/// Stops an action. What is being done to the page under way is still done, and counted.
pub async fn abort(broker: &dyn Broker, tenant: &TenantId, id: JobId, now: UnixMs) -> Result<Aborted> {
    for _ in 0..MAX_TRIES {
        let Some((mut bulk, version)) = read(broker, tenant, id).await? else { return Ok(Aborted::NotFound) };
        if bulk.is_over() {
            return Ok(Aborted::Over(Box::new(bulk)));
        }
        (bulk.state, bulk.finished_at) = (State::Aborted, Some(now));
        if put_over(broker, tenant, &bulk, version).await? {
            // A page under way is still to be counted: whoever looks at the entry next forgets it.
            return Ok(Aborted::Aborted(Box::new(bulk)));
        }
    }
    Err(Error::Unavailable("the action is being changed all the time".into()))
}

/// Actions of all tenants that run, at most `max`, those after the one called `after` in the index: its name is answered
/// with each.
pub async fn running(broker: &dyn Broker, after: Option<&str>, max: u32) -> Result<Vec<(String, TenantId, JobId)>> {
    let from = after.unwrap_or(INDEX);
    let found = documents(broker, &system_tenant(), Some(from), max).await?;
    let entries = found.into_iter().take_while(|document| document.name.starts_with(INDEX));
    let entries = entries.filter(|document| document.name != start_claims::CLAIMS);
    // One that a newer release wrote must not stop the others.
    let readable = entries.filter_map(|document| Some((readable::<Entry>(&document)?, document.name)));
    Ok(readable.map(|(entry, name)| (name, entry.tenant, entry.id)).collect())
}

async fn delete(broker: &dyn Broker, tenant: &TenantId, name: &str) -> Result<()> {
    write::<()>(broker, tenant, name.to_owned(), Expect::Any, None).await.map(drop)
}

/// Takes an action out of the index.
pub(crate) async fn drop_entry(broker: &dyn Broker, tenant: &TenantId, id: JobId) -> Result<()> {
    delete(broker, &system_tenant(), &index_name(tenant, id)).await
}

/// Takes an entry whose action does not exist out of the index, unless its submission may still be under way.
pub(crate) async fn drop_orphan(broker: &dyn Broker, tenant: &TenantId, id: JobId, now: UnixMs) -> Result<()> {
    let name = index_name(tenant, id);
    let Some(found) = broker.document(&system_tenant(), DocumentKind::Bulk, &name).await? else { return Ok(()) };
    let entry: Entry = serde_json::from_str(&found.body).map_err(|e| corrupt(&e))?;
    if entry.at.saturating_add(ORPHAN_MS) < now { delete(broker, &system_tenant(), &name).await } else { Ok(()) }
}
