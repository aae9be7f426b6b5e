//! Takes away modules that were deleted, and marks those as deleted that nobody has used for long.
//!
//! A deleted module is marked in its record, and nothing new may use it. When the servers have forgotten their copies of the
//! tasks (`module_grace`) and no job that is not over uses it, its record is deleted, and then its bytes, unless another tenant
//! has a record of them. Before a record is deleted a note with the digest is stored for the system's tenant; whoever finds one
//! goes on with the bytes, so a process may die between any two steps. A push stores the record before the bytes, and bytes are
//! taken away so that they can be put back: whatever a push does meanwhile, its bytes are there in the end.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use umbel_broker::{Broker, Document, DocumentKind, DocumentPut, Expect, PutDocument};
use umbel_bulk::system_tenant;
use umbel_compose::ModuleDocument;
use umbel_model::{Digest, ModuleInfo, TenantId, UnixMs};
use umbel_modules::ModuleStore;

use crate::{
    ControlConfig,
    large_value_owner::owns,
    module_users::{Keeper, Search, pinned},
    promoter::now_ms,
    service::Error,
    service::Service,
};

/// Records of one page.
const PAGE: u32 = 100;
/// Keepers that are remembered at most.
const MAX_KEEPERS: usize = 10_000;

pub(crate) struct ModuleCollector {
    config: ControlConfig,
    store: ModuleStore,
    /// What was found to use a module: all jobs of a tenant are looked through only when that is over.
    keepers: Mutex<HashMap<(TenantId, Digest), Keeper>>,
}

impl Service for ModuleCollector {
    const NAME: &'static str = "module collector";
    const MAY_BE_BROKEN_OFF: bool = true;

    async fn step(&self, broker: &dyn Broker) -> Result<Duration, Error> {
        // A folder of another broker's has bytes of which this one knows no records. Its sweeper says so.
        if owns(broker, &self.store).await? {
            self.finish(broker).await?;
            for tenant in broker.document_tenants(DocumentKind::Module).await? {
                if tenant != system_tenant() {
                    self.look_at(broker, &tenant).await?;
                }
            }
        }
        Ok(self.config.collect_every)
    }
}

impl ModuleCollector {
    pub(crate) fn new(config: ControlConfig, store: ModuleStore) -> Self {
        Self { config, store, keepers: Mutex::default() }
    }

    /// Looks at all modules of a tenant.
    async fn look_at(&self, broker: &dyn Broker, tenant: &TenantId) -> Result<(), Error> {
        let (mut after, mut candidates) = (None, Vec::new());
        loop {
            let page = broker.documents(tenant, DocumentKind::Module, after.as_deref(), PAGE).await?;
            for document in &page.documents {
                match ModuleDocument::parse(document) {
                    Ok(module) if self.is_candidate(broker, tenant, &module).await? => {
                        candidates.push(module.info.digest);
                    }
                    Ok(_) => {}
                    Err(error) => tracing::warn!(%tenant, %error, "the record of a module is left alone"),
                }
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        if !candidates.is_empty() {
            let pinned = pinned(broker, tenant).await?;
            candidates.retain(|digest| !pinned.contains(digest));
        }
        for digest in self.without_keeper(broker, tenant, candidates).await? {
            // As it is now: it may have been pushed again.
            let Some(module) = ModuleDocument::read(broker, tenant, digest).await.map_err(broker_error)? else {
                continue;
            };
            if !self.is_candidate(broker, tenant, &module).await? {
                continue;
            }
            if module.info.deleted_at.is_some() {
                self.collect(broker, tenant, &module).await?;
            } else if module.mark(broker, tenant, Some(now_ms())).await.map_err(broker_error)? {
                tracing::info!(%tenant, %digest, "module deleted: nothing has used it for long");
            }
        }
        Ok(())
    }

    /// Whether the module is to be taken away or to be marked if no job that is not over uses it.
    async fn is_candidate(
        &self,
        broker: &dyn Broker,
        tenant: &TenantId,
        module: &ModuleDocument,
    ) -> Result<bool, Error> {
        let now = now_ms();
        let is_old = |at: UnixMs, age: Duration| now.saturating_sub(at) >= age.as_millis() as u64;
        let unused = self.config.unused_modules_after;
        match (module.info.deleted_at, module.info.pushed_at) {
            (Some(at), _) => Ok(is_old(at, self.config.module_grace)),
            _ if unused.is_zero() => Ok(false),
            (None, Some(at)) if is_old(at, unused) => {
                let users = module.users(broker, tenant).await.map_err(broker_error)?;
                Ok(!users.is_reachable && users.pointing.is_empty())
            }
            (None, Some(_)) => Ok(false),
            (None, None) => {
                // Of an older release: its age counts from now on.
                let info = ModuleInfo { pushed_at: Some(now), ..module.info.clone() };
                let expect = Expect::Version(module.version);
                ModuleDocument::write(broker, tenant, &info, expect).await.map_err(broker_error)?;
                Ok(false)
            }
        }
    }

    /// Those of the modules that no job that is not over uses.
    async fn without_keeper(
        &self,
        broker: &dyn Broker,
        tenant: &TenantId,
        modules: Vec<Digest>,
    ) -> Result<Vec<Digest>, Error> {
        let mut open = Vec::new();
        for digest in modules {
            let key = (tenant.clone(), digest);
            let known = self.keepers.lock().unwrap_or_else(PoisonError::into_inner).get(&key).copied();
            match known {
                Some(keeper) if keeper.keeps(broker, tenant, digest).await? => {}
                _ => open.push(digest),
            }
        }
        if open.is_empty() {
            return Ok(open);
        }
        let found = Search::run(broker, tenant, open.clone()).await?;
        open.retain(|digest| !found.contains_key(digest));
        let mut keepers = self.keepers.lock().unwrap_or_else(PoisonError::into_inner);
        if keepers.len() + found.len() > MAX_KEEPERS {
            keepers.clear();
        }
        for digest in &open {
            keepers.remove(&(tenant.clone(), *digest));
        }
        keepers.extend(found.into_iter().map(|(digest, keeper)| ((tenant.clone(), digest), keeper)));
        Ok(open)
    }

    /// Takes a deleted module away that no job uses.
    async fn collect(&self, broker: &dyn Broker, tenant: &TenantId, module: &ModuleDocument) -> Result<(), Error> {
        let digest = module.info.digest;
        if !module.users(broker, tenant).await.map_err(broker_error)?.pointing.is_empty() {
            // A process of an older release, which does not know the mark, pointed a task at it.
            module.mark(broker, tenant, None).await.map_err(broker_error)?;
            return Ok(());
        }
        if !note(broker, digest, true).await? {
            return Ok(());
        }
        if module.forget(broker, tenant).await.map_err(broker_error)? {
            tracing::info!(%tenant, %digest, "module taken away");
        }
        self.take_bytes(broker, digest).await
    }

    /// Goes on with what a process that died left.
    async fn finish(&self, broker: &dyn Broker) -> Result<(), Error> {
        let mut after = None;
        loop {
            let page = broker.documents(&system_tenant(), DocumentKind::Module, after.as_deref(), PAGE).await?;
            for Document { name, .. } in &page.documents {
                if let Ok(digest) = name.parse() {
                    self.take_bytes(broker, digest).await?;
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// Deletes the bytes of a module if no tenant has a record of it; then the note.
    async fn take_bytes(&self, broker: &dyn Broker, digest: Digest) -> Result<(), Error> {
        if !is_recorded(broker, digest).await? {
            self.store.take_aside(&digest).await?;
        }
        // Listed before it is looked again: what is deleted was taken before nobody had a record.
        let aside = self.store.aside(&digest).await?;
        if is_recorded(broker, digest).await? {
            self.store.put_back(&digest, &aside).await?;
        } else {
            self.store.delete_aside(&aside).await?;
        }
        note(broker, digest, false).await?;
        Ok(())
    }
}

/// Whether any tenant has a record of the module.
async fn is_recorded(broker: &dyn Broker, digest: Digest) -> Result<bool, Error> {
    let name = digest.to_string();
    for tenant in broker.document_tenants(DocumentKind::Module).await? {
        if tenant != system_tenant() && broker.document(&tenant, DocumentKind::Module, &name).await?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Stores or deletes the note that the bytes of a module are to be looked at; false when there is no room for it.
async fn note(broker: &dyn Broker, digest: Digest, is_open: bool) -> Result<bool, Error> {
    let put = PutDocument {
        tenant: system_tenant(),
        kind: DocumentKind::Module,
        name: digest.to_string(),
        expect: Expect::Any,
        body: is_open.then(|| "{}".to_owned()),
        held_bytes: 0,
    };
    Ok(!matches!(broker.put_document(&put).await?, DocumentPut::Full | DocumentPut::StorageFull))
}

fn broker_error(error: umbel_compose::Error) -> Error {
    match error {
        umbel_compose::Error::Broker(error) => error.into(),
        other => umbel_broker::Error::Corrupt(other.to_string()).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use bytes::Bytes;
    use umbel_broker::{
        Cancelled, Jobs as _, Maintenance as _, NewJob, NewNode, NewWork, NodeTemplate, Registry as _, ScheduleChange,
        ScheduleStep, ScheduleStepped, Schedules as _, Start, WorkflowHead, Workflows as _, submit_workflow,
    };
    use umbel_broker_conformance::MemoryBroker;
    use umbel_compose::TaskDocument;
    use umbel_model::{
        JobId, OnFailure, QueueName, ScheduleName, TaskDescription, TaskName, WorkflowId,
        canvas::{Range, When},
    };

    use super::*;

    const DAY_MS: u64 = 86_400_000;

    struct World {
        broker: Arc<MemoryBroker>,
        store: ModuleStore,
        _folder: tempfile::TempDir,
    }

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    fn task(name: &str) -> TaskDescription {
        serde_json::from_str(&format!(r#"{{"name":"{name}","parameters":[]}}"#)).unwrap()
    }

    impl World {
        async fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let store = ModuleStore::local(Path::new(folder.path())).await.unwrap();
            Self { broker: Arc::new(MemoryBroker::default()), store, _folder: folder }
        }

        fn collector(&self) -> ModuleCollector {
            ModuleCollector::new(ControlConfig::default(), self.store.clone())
        }

        async fn round(&self) {
            self.collector().step(&*self.broker).await.unwrap();
        }

        /// A module with the task `t`, pushed and deleted so many milliseconds ago.
        async fn module(&self, tenant: &TenantId, pushed: Option<u64>, deleted: Option<u64>) -> Digest {
            let digest = self.store.put_bytes(Bytes::from_static(b"module"), 100).await.unwrap().digest;
            self.record(tenant, digest, pushed, deleted).await;
            digest
        }

        async fn record(&self, tenant: &TenantId, digest: Digest, pushed: Option<u64>, deleted: Option<u64>) {
            let ago = |ms: u64| now_ms() - ms;
            let (pushed_at, deleted_at) = (pushed.map(ago), deleted.map(ago));
            let (imports, tasks) = (Vec::new(), vec![task("t")]);
            let info = ModuleInfo {
                digest,
                size_bytes: 6,
                core_module: false,
                imports,
                tasks,
                permissions: None,
                pushed_at,
                deleted_at,
            };
            ModuleDocument::write(&*self.broker, tenant, &info, Expect::Any).await.unwrap();
        }

        async fn point(&self, tenant: &TenantId, document: &TaskDocument) {
            let body = Some(serde_json::to_string(document).unwrap());
            let (tenant, kind, name) = (tenant.clone(), DocumentKind::Task, "t".to_owned());
            let put = PutDocument { tenant, kind, name, expect: Expect::Any, body, held_bytes: 0 };
            self.broker.put_document(&put).await.unwrap();
        }

        async fn submit(&self, tenant: &TenantId, digest: Digest) -> JobId {
            let id = JobId::from_parts(1, 7);
            let job = NewJob {
                id,
                tenant: tenant.clone(),
                task: TaskName::new("t").unwrap(),
                queue: QueueName::default(),
                priority: 5,
                spec: format!(r#"{{"digest":"{digest}"}}"#),
                start: Start::After(DAY_MS),
                expires_ms: 0,
                max_deliveries: 2,
                result_ttl_ms: 1_000_000,
                dead_ttl_ms: 1_000_000,
                expires_at: None,
                broker_options: None,
                labels: Vec::new(),
                idempotency: None,
                redrive_of: None,
                blobs: Vec::new(),
            };
            self.broker.submit(&[job]).await.unwrap();
            id
        }

        async fn stored(&self, tenant: &TenantId, digest: Digest) -> (bool, bool) {
            let record = ModuleDocument::read(&*self.broker, tenant, digest).await.unwrap();
            (record.is_some(), self.store.exists(&digest).await.unwrap())
        }

        async fn notes(&self) -> usize {
            let notes = self.broker.documents(&system_tenant(), DocumentKind::Module, None, 10).await.unwrap();
            notes.documents.len()
        }
    }

    #[tokio::test]
    async fn a_deleted_module_is_taken_away_after_its_grace_when_nothing_uses_it() {
        let (world, t) = (World::new().await, tenant("a"));
        let digest = world.module(&t, None, Some(1_000)).await;
        world.round().await;
        assert_eq!(world.stored(&t, digest).await, (true, true), "servers may know its tasks still");
        world.record(&t, digest, None, Some(DAY_MS)).await;
        world.round().await;
        assert_eq!((world.stored(&t, digest).await, world.notes().await), ((false, false), 0));
    }

    #[tokio::test]
    async fn a_job_that_waits_keeps_its_deleted_module_until_it_is_over() {
        let (world, t) = (World::new().await, tenant("a"));
        let digest = world.module(&t, None, Some(DAY_MS)).await;
        let id = world.submit(&t, digest).await;
        let collector = world.collector();
        for _ in 0..2 {
            collector.step(&*world.broker).await.unwrap();
            assert_eq!(world.stored(&t, digest).await, (true, true));
        }
        assert_eq!(world.broker.cancel(&t, id, true).await.unwrap(), Cancelled::Revoked);
        collector.step(&*world.broker).await.unwrap();
        assert_eq!(world.stored(&t, digest).await, (false, false));
    }

    #[tokio::test]
    async fn a_workflow_that_runs_keeps_the_modules_of_its_nodes() {
        let (world, t) = (World::new().await, tenant("a"));
        let digest = world.module(&t, None, Some(DAY_MS)).await;
        let id = WorkflowId::from_parts(1, 0);
        let template = NodeTemplate {
            task: TaskName::new("t").unwrap(),
            queue: QueueName::default(),
            priority: 5,
            start: Start::Now,
            expires_ms: 0,
            max_deliveries: 2,
            spec: format!(r#"{{"digest":"{digest}"}}"#),
            nodes: 1,
        };
        let head = WorkflowHead {
            id,
            tenant: t.clone(),
            spec: "{}".into(),
            templates: vec![template],
            nodes: 1,
            starts: vec![Range::one(0)],
            end: 0,
            deadline_ms: 0,
            keep_ms: 1_000_000,
            idempotency: None,
            parent: None,
            depth: 0,
        };
        let work = NewWork::Job {
            template: 0,
            arguments: "{}".into(),
            takes: false,
            kept: None,
            broker_options: None,
            blobs: Vec::new(),
        };
        let (when, on_failure) = (When::Success, OnFailure::Fail);
        let node = NewNode { when, on_failure, after: None, group: None, next: Vec::new(), work };
        submit_workflow(&*world.broker, &head, &[node]).await.unwrap();
        world.round().await;
        assert_eq!(world.stored(&t, digest).await, (true, true));
        world.broker.cancel_workflow(&t, id).await.unwrap();
        world.broker.promote(1_000).await.unwrap();
        world.round().await;
        assert_eq!(world.stored(&t, digest).await, (false, false));
    }

    #[tokio::test]
    async fn the_bytes_stay_as_long_as_another_tenant_has_the_module() {
        let (world, a, b) = (World::new().await, tenant("a"), tenant("b"));
        let digest = world.module(&a, None, Some(DAY_MS)).await;
        world.record(&b, digest, Some(1_000), None).await;
        world.round().await;
        assert_eq!((world.stored(&a, digest).await, world.notes().await), ((false, true), 0));
        world.record(&b, digest, None, Some(DAY_MS)).await;
        world.round().await;
        assert_eq!(world.stored(&b, digest).await, (false, false));
    }

    #[tokio::test]
    async fn a_process_that_died_between_any_two_steps_leaves_nothing_broken() {
        let (world, t) = (World::new().await, tenant("a"));
        // After the note.
        let digest = world.module(&t, None, Some(DAY_MS)).await;
        note(&*world.broker, digest, true).await.unwrap();
        world.round().await;
        assert_eq!((world.stored(&t, digest).await, world.notes().await), ((false, false), 0));
        // After the record.
        let digest = world.module(&t, None, None).await;
        note(&*world.broker, digest, true).await.unwrap();
        ModuleDocument::read(&*world.broker, &t, digest)
            .await
            .unwrap()
            .unwrap()
            .forget(&*world.broker, &t)
            .await
            .unwrap();
        world.round().await;
        assert_eq!((world.stored(&t, digest).await, world.notes().await), ((false, false), 0));
        // After the bytes were taken away, while a push has stored the record: they are put back.
        let digest = world.module(&t, Some(0), None).await;
        note(&*world.broker, digest, true).await.unwrap();
        world.store.take_aside(&digest).await.unwrap();
        world.round().await;
        assert_eq!((world.stored(&t, digest).await, world.notes().await), ((true, true), 0));
        // The same when the push has stored its bytes, too.
        note(&*world.broker, digest, true).await.unwrap();
        world.store.take_aside(&digest).await.unwrap();
        world.store.put_bytes(Bytes::from_static(b"module"), 100).await.unwrap();
        world.round().await;
        assert_eq!((world.stored(&t, digest).await, world.notes().await), ((true, true), 0));
        assert!(world.store.aside(&digest).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_push_while_two_collectors_take_the_module_away_has_its_bytes_in_the_end() {
        let (world, t) = (World::new().await, tenant("a"));
        for _ in 0..50 {
            let digest = world.module(&t, None, Some(DAY_MS)).await;
            let push = async {
                // As a push does: the record first.
                world.record(&t, digest, Some(0), None).await;
                world.store.put_bytes(Bytes::from_static(b"module"), 100).await.unwrap();
            };
            let (one, other) = (world.collector(), world.collector());
            let collect = async |collector: &ModuleCollector| {
                collector.step(&*world.broker).await.unwrap();
            };
            tokio::join!(push, collect(&one), collect(&other));
            assert_eq!((world.stored(&t, digest).await, world.notes().await), ((true, true), 0));
            assert!(world.store.aside(&digest).await.unwrap().is_empty());
        }
    }

    #[tokio::test]
    async fn a_module_that_a_task_points_at_is_no_longer_deleted() {
        let (world, t) = (World::new().await, tenant("a"));
        let digest = world.module(&t, None, Some(DAY_MS)).await;
        world.point(&t, &TaskDocument::first(task("t"), digest, 1)).await;
        world.round().await;
        let record = ModuleDocument::read(&*world.broker, &t, digest).await.unwrap().unwrap();
        assert_eq!((record.info.deleted_at, world.store.exists(&digest).await.unwrap()), (None, true));
    }

    #[tokio::test]
    async fn a_module_that_nobody_used_for_long_is_deleted_unless_a_rollback_may_come_back_to_it() {
        let (world, t) = (World::new().await, tenant("a"));
        let deleted = async |digest| {
            ModuleDocument::read(&*world.broker, &t, digest).await.unwrap().unwrap().info.deleted_at.is_some()
        };
        let digest = world.module(&t, Some(29 * DAY_MS), None).await;
        world.round().await;
        assert!(!deleted(digest).await, "it is young");
        world.record(&t, digest, Some(31 * DAY_MS), None).await;
        let mut document = TaskDocument::first(task("t"), digest, 1);
        document.deploy(task("t"), Digest::of(b"newer"), 2);
        world.point(&t, &document).await;
        world.round().await;
        assert!(!deleted(digest).await, "a rollback comes back to it");
        world.point(&t, &TaskDocument::first(task("t"), Digest::of(b"newer"), 2)).await;
        let id = world.submit(&t, digest).await;
        world.round().await;
        assert!(!deleted(digest).await, "a job uses it");
        world.broker.cancel(&t, id, true).await.unwrap();
        let never = ControlConfig { unused_modules_after: Duration::ZERO, ..ControlConfig::default() };
        ModuleCollector::new(never, world.store.clone()).step(&*world.broker).await.unwrap();
        assert!(!deleted(digest).await, "the operator keeps all");
        let mut step = ScheduleStep {
            tenant: t.clone(),
            name: ScheduleName::new("nightly").unwrap(),
            revision: 0,
            not_before: 0,
            change: ScheduleChange::Put {
                definition: Some(format!(r#"{{"digest":"{digest}"}}"#)),
                state: "{}".into(),
                look_at: None,
            },
            fires: Vec::new(),
            start: None,
        };
        let set = world.broker.schedule_steps(std::slice::from_ref(&step)).await.unwrap();
        world.round().await;
        assert!(!deleted(digest).await, "a schedule pins it");
        let ScheduleStepped::Done { revision, .. } = set[0] else { panic!("{set:?}") };
        (step.revision, step.change) = (revision, ScheduleChange::Delete);
        world.broker.schedule_steps(&[step]).await.unwrap();
        world.round().await;
        assert!(deleted(digest).await);
        assert!(world.store.exists(&digest).await.unwrap(), "it is taken away after its grace");
    }

    #[tokio::test]
    async fn the_age_of_a_module_of_an_older_release_counts_from_the_first_look() {
        let (world, t) = (World::new().await, tenant("a"));
        let digest = world.module(&t, None, None).await;
        world.round().await;
        let info = ModuleDocument::read(&*world.broker, &t, digest).await.unwrap().unwrap().info;
        assert!(info.deleted_at.is_none() && info.pushed_at.is_some_and(|at| now_ms() - at < 60_000));
    }
}
