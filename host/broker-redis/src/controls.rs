//! Queues, and what is set about tenants, queues and tasks while the service runs.

use std::collections::BTreeMap;

use async_trait::async_trait;
use umbel_broker::{
    Control, ControlPatch, ControlSet, Controls, Error, Limits, MAX_READY_QUEUES, MAX_SUB_QUEUES_SEEN, QueueDeleted,
    QueueStats, Result, Scope, StorageLimits, StoredBytes,
};
use umbel_model::{QueueName, Rate, TenantId};

use crate::{
    RedisBroker,
    answers::Answer,
    args,
    bytes::{Reader, corrupt},
    connection::Repeat,
    jobs::or_nothing,
    unknown_code,
};

const PAUSED: u8 = 1;
const EXCLUSIVE: u8 = 2;
const HAS_RATE: u8 = 4;

#[async_trait]
impl Controls for RedisBroker {
    async fn queues(&self, tenant: &TenantId) -> Result<Vec<QueueStats>> {
        let mut answer = self.answer("queues", args([tenant]), Repeat::Safe).await?;
        let mut queues = answer.rest(|answer| {
            let name = answer.parsed()?;
            let mut count =
                || u64::try_from(answer.number()?).map_err(|_| Error::Corrupt("a count is negative".into()));
            let (queued, running, delayed, dead, paused) = (count()?, count()?, count()?, count()?, count()? > 0);
            Ok(QueueStats { name, queued, running, delayed, dead, paused })
        })?;
        queues.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(queues)
    }

    async fn oldest_ready(&self, tenant: &TenantId) -> Result<Vec<(QueueName, u64)>> {
        let args = args([tenant, &MAX_SUB_QUEUES_SEEN]);
        let mut ages: Vec<(QueueName, u64)> = self
            .answer("oldest_ready", args, Repeat::Safe)
            .await?
            .rest(|answer| Ok((answer.parsed()?, u64::try_from(answer.number()?).unwrap_or_default())))?;
        ages.sort();
        Ok(ages)
    }

    async fn ready_queues(&self) -> Result<Vec<QueueName>> {
        self.answer("ready_queues", args([&MAX_READY_QUEUES]), Repeat::Safe).await?.rest(Answer::parsed)
    }

    async fn delete_queue(&self, tenant: &TenantId, queue: &QueueName) -> Result<QueueDeleted> {
        match self.typed::<String>("delete_queue", args([tenant, queue]), Repeat::OnlyUnsent).await?.as_str() {
            "D" => Ok(QueueDeleted::Deleted),
            "F" => Ok(QueueDeleted::NotEmpty),
            _ => Ok(QueueDeleted::NotFound),
        }
    }

    async fn set_control(&self, tenant: &TenantId, scope: &Scope, patch: &ControlPatch) -> Result<ControlSet> {
        let flag = |wanted: Option<bool>| wanted.map(|yes| u8::from(yes).to_string()).unwrap_or_default();
        let rate = match &patch.rate {
            None => String::new(),
            Some(None) => "-".into(),
            Some(Some(rate)) => format!("{} {} {}", rate.count, rate.period_ms.min(1 << 40), rate.burst),
        };
        let (scope, concurrency) = (field(scope), or_nothing(patch.concurrency.as_ref()));
        let (paused, exclusive) = (flag(patch.paused), flag(patch.exclusive));
        let Limits { max_documents, max_queues, .. } = self.limits;
        let args = args([tenant, &scope, &paused, &exclusive, &rate, &concurrency, &max_documents, &max_queues]);
        let answer: Vec<u8> = self.typed("control", args, Repeat::Safe).await?;
        match answer.split_first() {
            Some((b'S', packed)) => Ok(ControlSet::Set(control(packed)?)),
            Some((b'U', _)) => Ok(ControlSet::Unknown),
            Some((b'Q', _)) => Ok(ControlSet::TooManyQueues),
            Some((b'F', _)) => Ok(ControlSet::Full),
            _ => Err(unknown_code()),
        }
    }

    async fn controls(&self, tenant: &TenantId) -> Result<Vec<(Scope, Control)>> {
        let mut answer = self.answer("controls", args([tenant]), Repeat::Safe).await?;
        let mut controls = BTreeMap::new();
        while !answer.done() {
            let (field, packed) = (answer.text()?, answer.bytes()?);
            let scope = match field.split_at_checked(2) {
                Some(("q:" | "p:", queue)) => Scope::Queue(queue.parse().map_err(corrupt)?),
                Some(("k:", task)) => Scope::Task(task.parse().map_err(corrupt)?),
                _ => Scope::Tenant,
            };
            let found: &mut Control = controls.entry(scope).or_default();
            if field.starts_with("p:") {
                found.paused = true;
            } else {
                *found = control(&packed)?;
            }
        }
        Ok(controls.into_iter().collect())
    }

    async fn stored_bytes(&self, tenant: &TenantId) -> Result<StoredBytes> {
        self.stored(tenant).await
    }

    async fn storage_limits(&self, tenant: &TenantId) -> Result<StorageLimits> {
        self.own_storage_limits(tenant).await
    }

    async fn set_storage_limits(&self, tenant: &TenantId, limits: StorageLimits) -> Result<()> {
        let [jobs, documents, kv, blobs] =
            [limits.jobs, limits.documents, limits.kv, limits.blobs].map(|bytes| bytes.min(StorageLimits::MOST));
        self.run("limit_storage", args([tenant, &jobs, &documents, &kv, &blobs]), Repeat::Safe).await.map(drop)
    }

    fn default_storage_limits(&self) -> StorageLimits {
        StorageLimits::of(&self.limits)
    }
}

/// How functions name a scope.
fn field(scope: &Scope) -> String {
    match scope {
        Scope::Tenant => "t".into(),
        Scope::Queue(queue) => format!("q:{queue}"),
        Scope::Task(task) => format!("k:{task}"),
    }
}

/// As `CONTROL` in `limits.lua`.
fn control(bytes: &[u8]) -> Result<Control> {
    let mut r = Reader(bytes);
    let (bits, count, period_ms, burst, concurrency) = (r.u8()?, r.u32()?, r.number(6)?, r.u32()?, r.u32()?);
    Ok(Control {
        paused: bits & PAUSED > 0,
        exclusive: bits & EXCLUSIVE > 0,
        rate: (bits & HAS_RATE > 0).then_some(Rate { count, period_ms, burst }),
        concurrency,
    })
}
