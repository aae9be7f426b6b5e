//! One random history on a broker and on the model.

use umbel_broker::rules::lease::{GRACE_MS, OUTAGE_MS};

use super::{
    perform::{Doing, Done, perform},
    properties::Properties,
    schedules::seen,
    steps::{How, Parts, Step, steps},
    *,
};

/// Runs random histories on fresh subjects. A failing one is shrunk and shown with the seed.
pub async fn random_histories<M, F>(make: M, histories: Histories)
where
    M: Fn() -> F,
    F: Future<Output = Subject>,
{
    let strategy = steps(histories.max_steps);
    let make = &make;
    let attempt = |steps: Vec<Step>| async move { History::new(make().await).run(steps).await };
    random::search("history", strategy, histories.count, histories.seed, attempt).await;
}

pub(super) struct History {
    pub(super) subject: Subject,
    pub(super) model: MemoryBroker,
    pub(super) deliveries: Vec<Delivery>,
    /// All workflows that anybody tried to make.
    pub(super) flows: Vec<(TenantId, WorkflowId)>,
    /// Those whose nodes are stored, and may be started still; and those of which a node may be missing.
    pub(super) staged: Vec<(TenantId, WorkflowId)>,
    pub(super) half_staged: BTreeSet<(TenantId, WorkflowId)>,
    /// Those that were submitted from outside.
    pub(super) submitted: Vec<(Plan, NewWorkflow)>,
    /// How each job was when it was first seen in a terminal state.
    pub(super) ended: BTreeMap<(TenantId, JobId), String>,
    pub(super) properties: Properties,
    /// Calls so far.
    calls: u32,
}

/// Calls after which what is slow to read is compared, too: a call that made a difference is found by its seed.
const SLOW_EVERY: u32 = 8;

impl History {
    fn new(subject: Subject) -> Self {
        let model = MemoryBroker::new(Clock::Manual(subject.now.clone()), limits());
        Self {
            subject,
            model,
            deliveries: Vec::new(),
            flows: Vec::new(),
            staged: Vec::new(),
            half_staged: BTreeSet::new(),
            submitted: Vec::new(),
            ended: BTreeMap::new(),
            properties: Properties::default(),
            calls: 0,
        }
    }

    async fn run(mut self, steps: Vec<Step>) -> Result<(), String> {
        for (at, step) in steps.iter().enumerate() {
            match step {
                Step::Pass { ms, is_served: false } => self.pass(*ms),
                Step::Pass { ms, is_served: true } => self.pass_served(*ms).await?,
                Step::Reopen => self.reopen().await,
                _ => {}
            }
            let doing = self.doing(step).await;
            self.both(&doing, || format!("step {at}, {step:?}")).await?;
        }
        self.compare_all("at the end").await?;
        self.audit("at the end").await?;
        self.finish().await?;
        self.compare_all("long after").await?;
        self.nothing_is_left().await?;
        self.audit("long after").await
    }

    fn pass(&mut self, ms: i64) {
        let now = self.subject.now.load(Ordering::SeqCst);
        self.subject.now.store(now.saturating_add_signed(ms), Ordering::SeqCst);
        self.properties.passed(ms);
    }

    async fn pass_served(&mut self, ms: i64) -> Result<(), String> {
        let mut left = ms;
        while left != 0 {
            self.both(&Doing::Reap(0), || format!("while {ms} ms pass")).await?;
            let step = left.min(OUTAGE_MS as i64);
            self.pass(step);
            left -= step;
        }
        Ok(())
    }

    async fn reopen(&mut self) {
        if self.subject.reopen().await {
            self.model.reopen();
        }
    }

    /// The answers of the model and of the broker are the same, and what they say may be.
    async fn both(&mut self, doing: &Doing, when: impl Fn() -> String) -> Result<Done, String> {
        self.properties.before(&self.model, doing);
        let done = perform(&self.model, doing).await;
        let got = perform(&*self.subject.broker, doing).await.text;
        if done.text != got {
            return Err(format!("{}: expected {}, got {got}", when(), done.text));
        }
        self.compare_bytes().await.map_err(|why| format!("{}: {why}", when()))?;
        let now = self.subject.now.load(Ordering::SeqCst);
        self.properties.after(&self.model, now, doing, &done).map_err(|why| format!("{}: {why}", when()))?;
        self.deliveries.extend(done.claimed.iter().cloned());
        if let Doing::Flow(flow, parts) = doing {
            self.notice_staged((flow.head.tenant.clone(), flow.head.id), *parts, &done.text);
        }
        Ok(done)
    }

    /// Nobody starts a workflow of which a node may be missing.
    fn notice_staged(&mut self, workflow: (TenantId, WorkflowId), parts: Parts, answers: &str) {
        let is_whole = parts != Parts::Head && !answers.contains("StorageFull") && !answers.contains("MissingBlob");
        self.staged.retain(|other| *other != workflow);
        if is_whole {
            self.half_staged.remove(&workflow);
            self.staged.push(workflow);
        } else {
            self.half_staged.insert(workflow);
        }
    }

    /// Both count the same bytes.
    async fn compare_bytes(&mut self) -> Result<(), String> {
        self.calls += 1;
        for name in TENANTS {
            let (expected, got) = (
                self.model.stored_bytes(&tenant(name)).await.unwrap(),
                self.subject.broker.stored_bytes(&tenant(name)).await.unwrap(),
            );
            if expected != got {
                return Err(format!("bytes of tenant {name}: expected {expected:?}, got {got:?}"));
            }
            if self.calls.is_multiple_of(SLOW_EVERY) {
                self.compare_blobs(name).await?;
                self.compare_usage(name, UsageBy::Task).await?;
                self.compare_schedules(name).await?;
            }
        }
        Ok(())
    }

    /// Both have the same records of blobs.
    async fn compare_blobs(&self, name: &str) -> Result<(), String> {
        let blobs = async |broker: &dyn Broker| broker.blobs(&tenant(name), None, BLOB_STEP).await.unwrap().blobs;
        let (expected, got) = (blobs(&self.model).await, blobs(&*self.subject.broker).await);
        if expected != got {
            return Err(format!("blobs of tenant {name}: expected {expected:?}, got {got:?}"));
        }
        Ok(())
    }

    /// Both have the same schedules.
    async fn compare_schedules(&self, name: &str) -> Result<(), String> {
        let (expected, got) =
            (seen(&self.model, &tenant(name)).await, seen(&*self.subject.broker, &tenant(name)).await);
        if expected != got {
            return Err(format!("schedules of tenant {name}: expected {expected}, got {got}"));
        }
        Ok(())
    }

    /// Both have the same sums of usage.
    async fn compare_usage(&self, name: &str, by: UsageBy) -> Result<(), String> {
        let query = all_usage(&tenant(name), by);
        let (expected, got) =
            (self.model.usage(&query).await.unwrap(), self.subject.broker.usage(&query).await.unwrap());
        if expected != got {
            return Err(format!("usage of tenant {name} by {}: expected {expected:?}, got {got:?}", by.as_str()));
        }
        Ok(())
    }

    /// Takes away all that operators set.
    async fn clear_controls(&mut self) -> Result<(), String> {
        let nothing =
            ControlPatch { paused: Some(false), rate: Some(None), concurrency: Some(0), exclusive: Some(false) };
        for name in TENANTS {
            for (scope, _) in self.model.controls(&tenant(name)).await.unwrap() {
                let clear = Doing::Control(tenant(name), scope, nothing.clone());
                self.both(&clear, || "afterwards".into()).await?;
            }
            let clear = Doing::LimitStorage(tenant(name), StorageLimits::default());
            self.both(&clear, || "afterwards".into()).await?;
            for bucket in self.model.kv_buckets(&tenant(name)).await.unwrap() {
                let delete = Doing::KvDeleteBucket(tenant(name), bucket.name, KV_STEP);
                self.both(&delete, || "afterwards".into()).await?;
            }
            let query = ScheduleQuery { tenant: tenant(name), prefix: String::new(), after: None, max: 100 };
            let left = self.model.schedules(&query).await.unwrap().schedules.into_iter();
            let deleted = left.map(|record| ScheduleStep {
                tenant: record.tenant,
                name: record.name,
                revision: record.revision,
                not_before: 0,
                change: ScheduleChange::Delete,
                fires: Vec::new(),
                start: None,
            });
            let delete = Doing::ChangeSchedules(deleted.collect(), false);
            self.both(&delete, || "afterwards".into()).await?;
        }
        Ok(())
    }

    /// Lets all that is left come to its end, and its time pass.
    async fn finish(&mut self) -> Result<(), String> {
        self.clear_controls().await?;
        let nothing = format!(
            "{:?}{:?}",
            Ok::<_, Error>(Promoted { moved: 0, expired: 0, opened: 0, next_due: None }),
            Ok::<_, Error>(Reaped { requeued: 0, buried: 0, failed: 0, revoked: 0 })
        );
        let mut quiet = 0;
        for round in 0..MAX_ROUNDS {
            // Longer than anything is kept.
            self.subject.pass(1_000_000);
            self.pass_served(GRACE_MS as i64 + 1).await?;
            let mut happened = String::new();
            for doing in [Doing::Promote(1_000), Doing::Reap(1_000)] {
                happened += &self.both(&doing, || format!("afterwards, {doing:?}")).await?.text;
            }
            // At first workers are lost still.
            let claimed = self.work(round >= 3).await?;
            // In every other history nothing is deleted before all has ended, so that each job can be looked at.
            let late = self.ended.len().is_multiple_of(2);
            let mut pruned = false;
            while !(late && quiet == 0)
                && self.both(&Doing::Prune(50), || "afterwards, a prune".into()).await?.text != "Ok(0)"
            {
                pruned = true;
            }
            // A deadline or an expired job that a claim meets is seen a round later.
            quiet = if claimed == 0 && !pruned && happened == nothing { quiet + 1 } else { 0 };
            if quiet == 1 {
                self.properties.all_ended(&self.model, &*self.subject.broker).await?;
            }
            if quiet == 4 {
                self.subject.pass(QUEUE_IDLE_MS);
                self.both(&Doing::Prune(50), || "a day later".into()).await?;
                self.both(&Doing::CollectBlobs(0, BLOB_STEP), || "a day later".into()).await?;
                return Ok(());
            }
        }
        Err("it does not come to its end".into())
    }

    /// Claims all that there is and lets it end, or not; how much there was.
    async fn work(&mut self, ends: bool) -> Result<usize, String> {
        let mut all = 0;
        loop {
            let claim = Doing::Claim(claim_of("w3", &QUEUES, 100), false);
            let held = self.both(&claim, || "afterwards, a claim".into()).await?.claimed;
            all += held.len();
            if held.is_empty() || !ends {
                return Ok(all);
            }
            for delivery in &held {
                let how = if delivery.fence.is_multiple_of(3) { How::Fail } else { How::Succeed };
                let settle = self.settle(delivery, &how);
                let settle = Doing::Settle(vec![settle.clone(), settle], None, None);
                self.both(&settle, || format!("afterwards, {settle:?}")).await?;
            }
        }
    }

    /// The audits of the model and of the broker find nothing.
    async fn audit(&self, when: &str) -> Result<(), String> {
        for (of, broker) in [("the model", &self.model as &dyn Broker), ("the broker", &*self.subject.broker)] {
            let found = broker.audit(false).await.unwrap();
            if !found.is_empty() {
                return Err(format!("{when}, the audit of {of} finds {found:?}"));
            }
        }
        Ok(())
    }

    async fn compare_all(&mut self, when: &str) -> Result<(), String> {
        for name in TENANTS {
            let t = tenant(name);
            let flows: Vec<WorkflowId> = self.flows.iter().filter(|(of, _)| *of == t).map(|(_, id)| *id).collect();
            let model = dump(&self.model, &t, &flows).await;
            let real = dump(&*self.subject.broker, &t, &flows).await;
            self.compare_blobs(name).await.map_err(|why| format!("{when}: {why}"))?;
            self.compare_schedules(name).await.map_err(|why| format!("{when}: {why}"))?;
            for by in [UsageBy::Task, UsageBy::Hour, UsageBy::Total] {
                self.compare_usage(name, by).await.map_err(|why| format!("{when}: {why}"))?;
            }
            if model.0 != real.0 {
                return Err(format!("{when}, tenant {name}: expected {}, got {}", model.0, real.0));
            }
            for record in real.1.into_iter().filter(|r| r.state.is_terminal()) {
                let key = (t.clone(), record.id);
                let shown = format!("{record:?}");
                let before = self.ended.entry(key).or_insert_with(|| shown.clone());
                if *before != shown {
                    return Err(format!("{when}: a terminal job changed from {before} to {shown}"));
                }
            }
        }
        Ok(())
    }

    /// Jobs end and are deleted, workflows too.
    async fn nothing_is_left(&self) -> Result<(), String> {
        let left = self.model.leftovers();
        if !left.is_empty() {
            return Err(format!("left in the model: {left:?}"));
        }
        for name in TENANTS {
            let t = tenant(name);
            let query = WorkflowQuery { tenant: t.clone(), state: None, before: None, max: 100 };
            let workflows = self.subject.broker.workflows(&query).await.unwrap().workflows;
            let jobs = self.subject.broker.jobs(&all_jobs(&t, false)).await.unwrap().jobs;
            let dead = self.subject.broker.jobs(&all_jobs(&t, true)).await.unwrap().jobs;
            if !(workflows.is_empty() && jobs.is_empty() && dead.is_empty()) {
                return Err(format!("left of tenant {name}: {workflows:?} {jobs:?} {dead:?}"));
            }
            for (_, id) in self.flows.iter().filter(|(of, _)| *of == t) {
                let nodes = self.subject.broker.nodes(&t, *id, 0, 20, Results::Included).await.unwrap().nodes;
                if !nodes.is_empty() {
                    return Err(format!("left of tenant {name}: {nodes:?}"));
                }
            }
        }
        Ok(())
    }
}

/// Everything a tenant can see, as text, and its jobs.
async fn dump(broker: &dyn Broker, tenant: &TenantId, flows: &[WorkflowId]) -> (String, Vec<JobRecord>) {
    let listed = broker.jobs(&all_jobs(tenant, false)).await.unwrap().jobs;
    let dead: Vec<JobId> = broker.jobs(&all_jobs(tenant, true)).await.unwrap().jobs.iter().map(|j| j.id).collect();
    let queues = broker.queues(tenant).await.unwrap();
    let ready = broker.ready_queues().await.unwrap();
    let controls = broker.controls(tenant).await.unwrap();
    let query = WorkflowQuery { tenant: tenant.clone(), state: None, before: None, max: 100 };
    let workflows = broker.workflows(&query).await.unwrap();
    let mut text = format!(
        "{listed:?} dead {dead:?} queues {queues:?} ready {ready:?} controls {controls:?} workflows {workflows:?}"
    );
    let mut ids: Vec<JobId> = listed.iter().map(|job| job.id).collect();
    for id in flows {
        let Some(record) = broker.workflow(tenant, *id).await.unwrap() else { continue };
        text.push_str(&format!("\n{record:?}"));
        for first in (0..record.nodes).step_by(MAX_NODES_A_CALL as usize) {
            let max = MAX_NODES_A_CALL.min(record.nodes - first);
            let nodes = broker.nodes(tenant, *id, first, max, Results::Included).await.unwrap().nodes;
            let values = broker.values(tenant, *id, first, max).await.unwrap();
            text.push_str(&format!("\n{nodes:?}\n{values:?}"));
            ids.extend(nodes.into_iter().filter_map(|node| match node.work {
                NodeWork::Job { record, .. } => Some(record.id),
                NodeWork::Join { .. } => None,
            }));
        }
    }
    // Lists have neither results nor histories.
    let mut jobs = Vec::new();
    for (at, id) in ids.into_iter().enumerate() {
        let job = broker.job(tenant, id).await.unwrap();
        text.push_str(&format!("\n{job:?}"));
        jobs.extend(job);
        if at < 10 {
            text.push_str(&format!(" logs {}", broker.logs(tenant, id, 0, 100).await.unwrap().len()));
        }
    }
    (text, jobs)
}
