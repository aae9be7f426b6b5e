//! What is set about tenants, queues and tasks while the service runs.

use umbel_broker::{Control, ControlPatch, ControlSet, Error, QueueDeleted, Result, Scope};
use umbel_model::{QueueName, Rate, TenantId};

use crate::{
    RedisBroker,
    answers::Answer,
    bytes::{Reader, corrupt},
    connection::Repeat,
};

const PAUSED: u8 = 1;
const EXCLUSIVE: u8 = 2;
const HAS_RATE: u8 = 4;

impl RedisBroker {
    pub(crate) async fn drop_queue(&self, tenant: &TenantId, queue: &QueueName) -> Result<QueueDeleted> {
        let args = [tenant.to_string(), queue.to_string()].map(String::into_bytes).to_vec();
        match self.typed::<String>("delete_queue", args, Repeat::OnlyUnsent).await?.as_str() {
            "D" => Ok(QueueDeleted::Deleted),
            "F" => Ok(QueueDeleted::NotEmpty),
            _ => Ok(QueueDeleted::NotFound),
        }
    }

    pub(crate) async fn patch_control(
        &self,
        tenant: &TenantId,
        scope: &Scope,
        patch: &ControlPatch,
    ) -> Result<ControlSet> {
        let flag = |wanted: Option<bool>| wanted.map(|yes| u8::from(yes).to_string()).unwrap_or_default();
        let rate = match &patch.rate {
            None => String::new(),
            Some(None) => "-".into(),
            Some(Some(rate)) => format!("{} {} {}", rate.count, rate.period_ms.min(1 << 40), rate.burst),
        };
        let args = [
            tenant.to_string(),
            field(scope),
            flag(patch.paused),
            flag(patch.exclusive),
            rate,
            patch.concurrency.map(|n| n.to_string()).unwrap_or_default(),
            self.limits.max_documents.to_string(),
        ];
        let args = args.map(String::into_bytes).to_vec();
        let answer: Vec<u8> = self.typed("control", args, Repeat::Safe).await?;
        match answer.split_first() {
            Some((b'S', packed)) => Ok(ControlSet::Set(control(packed)?)),
            Some((b'U', _)) => Ok(ControlSet::Unknown),
            Some((b'F', _)) => Ok(ControlSet::Full),
            _ => Err(Error::Failed("a function answered with a code that is not known".into())),
        }
    }

    pub(crate) async fn list_controls(&self, tenant: &TenantId) -> Result<Vec<(Scope, Control)>> {
        let args = vec![tenant.to_string().into_bytes()];
        let mut answer = Answer::new(self.run("controls", args, Repeat::Safe).await?)?;
        let mut controls = std::collections::BTreeMap::new();
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
}

/// How functions name a scope.
fn field(scope: &Scope) -> String {
    match scope {
        Scope::Tenant => "t".into(),
        Scope::Queue(queue) => format!("q:{queue}"),
        Scope::Task(task) => format!("k:{task}"),
    }
}

/// As `CONTROL` in `sub_queues.lua`.
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
