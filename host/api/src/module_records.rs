//! The records of modules: made by a push, marked by a deletion.

use umbel_broker::{DocumentPut, Expect, ScheduleQuery, ScheduleRecord};
use umbel_compose::ModuleDocument;
use umbel_model::{Digest, ModuleInfo, TaskName, TenantId};
use umbel_schedule::Definition;

use crate::{
    paging::MAX_LIMIT,
    problem::{Problem, Result},
    state::Api,
    storage_quota,
    task_store::MAX_TRIES,
    time::now_ms,
};

/// How old the time of the last push may get before a push of the same bytes writes it again, milliseconds.
const FRESH_MS: u64 = 86_400_000;
/// Tasks that an error names.
const NAMED: usize = 10;

/// Stores the record of a pushed module, and takes the mark of a deleted one away. Answers the version of a record that was
/// not there before.
pub(crate) async fn remember(api: &Api, tenant: &TenantId, info: &ModuleInfo) -> Result<Option<u64>> {
    for _ in 0..MAX_TRIES {
        let found = ModuleDocument::read(&*api.broker, tenant, info.digest).await?;
        let now = now_ms();
        let expect = match &found {
            None => Expect::Absent,
            Some(module) if is_fresh(&module.info, now) && says_as_much(&module.info, info) => return Ok(None),
            Some(module) => Expect::Version(module.version),
        };
        let record = ModuleInfo { pushed_at: Some(now), deleted_at: None, ..info.clone() };
        match ModuleDocument::write(&*api.broker, tenant, &record, expect).await? {
            DocumentPut::Stored(version) => return Ok(found.is_none().then_some(version)),
            // Pushed or deleted by others meanwhile.
            DocumentPut::Conflict(_) => {}
            DocumentPut::Full => {
                let detail = "the tenant has as many modules as it may have; `umbel module delete` deletes some";
                return Err(Problem::too_many_documents(detail));
            }
            DocumentPut::StorageFull => return Err(storage_quota::of_documents(api, tenant).await),
        }
    }
    Err(busy(info.digest))
}

/// Whether the record has what this release finds out about the module.
fn says_as_much(record: &ModuleInfo, info: &ModuleInfo) -> bool {
    record.permissions.is_some() || info.permissions.is_none()
}

fn is_fresh(info: &ModuleInfo, now: u64) -> bool {
    info.deleted_at.is_none() && info.pushed_at.is_some_and(|at| now.saturating_sub(at) < FRESH_MS)
}

/// Takes a record back that this push made and whose bytes could not be stored. Where that fails, too, pushing again repairs
/// it.
pub(crate) async fn forget(api: &Api, tenant: &TenantId, info: &ModuleInfo, version: u64) {
    let record = ModuleDocument { info: info.clone(), version };
    if let Err(error) = record.forget(&*api.broker, tenant).await {
        tracing::warn!(digest = %info.digest, %error, "a module whose bytes are not stored is still listed");
    }
}

/// Marks a module as deleted, unless tasks point at it.
pub(crate) async fn delete(api: &Api, tenant: &TenantId, digest: Digest) -> Result<()> {
    for _ in 0..MAX_TRIES {
        let Some(module) = ModuleDocument::read(&*api.broker, tenant, digest).await? else {
            return Err(Problem::no_module(digest));
        };
        if module.info.deleted_at.is_some() {
            return Ok(());
        }
        must_be_unused(&module.users(&*api.broker, tenant).await?.pointing, digest)?;
        must_not_be_pinned(api, tenant, digest).await?;
        if !module.mark(&*api.broker, tenant, Some(now_ms())).await? {
            continue;
        }
        // Whoever pointed a task at it meanwhile has seen the mark, or is seen here.
        let pointing = module.users(&*api.broker, tenant).await?.pointing;
        if !pointing.is_empty() {
            let marked = ModuleDocument { version: module.version + 1, ..module };
            marked.mark(&*api.broker, tenant, None).await?;
        }
        return must_be_unused(&pointing, digest);
    }
    Err(busy(digest))
}

fn must_be_unused(pointing: &[TaskName], digest: Digest) -> Result<()> {
    if pointing.is_empty() {
        return Ok(());
    }
    let named: Vec<String> = pointing.iter().take(NAMED).map(|name| format!("`{name}`")).collect();
    let more = match pointing.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Err(Problem::module_in_use(format!(
        "the tasks {}{more} point at {digest}; push another version, roll it back (`umbel module rollback`) or delete the tasks \
         (`umbel task delete`)",
        named.join(", ")
    )))
}

/// A schedule that is set meanwhile may still pin it: what it fires then fails, and is recorded.
async fn must_not_be_pinned(api: &Api, tenant: &TenantId, digest: Digest) -> Result<()> {
    let mut query = ScheduleQuery { tenant: tenant.clone(), prefix: String::new(), after: None, max: MAX_LIMIT };
    let text = digest.to_string();
    loop {
        let page = api.broker.schedules(&query).await?;
        let pins = |schedule: &&ScheduleRecord| {
            schedule.definition.contains(&text)
                && Definition::stored(&schedule.definition).is_ok_and(|of| of.written.digest == Some(digest))
        };
        if let Some(schedule) = page.schedules.iter().find(pins) {
            return Err(Problem::module_in_use(format!(
                "schedule `{}` pins {digest}; change it, or delete it (`umbel schedule delete`)",
                schedule.name
            )));
        }
        query.after = page.next;
        if query.after.is_none() {
            return Ok(());
        }
    }
}

fn busy(digest: Digest) -> Problem {
    Problem::concurrent_change(format!("{digest} was changed by others {MAX_TRIES} times; try again"))
}
