//! What a step of a history is, now: which job, which delivery, which claim.

use umbel_model::{BucketName, KvKey};

use super::{
    history::History,
    perform::{Doing, kv_key},
    requests::*,
    schedules::{Change, Decided, SCHEDULES, ScheduleRequest, Starting},
    steps::{Again, How, KvExpect, Parts, Step, Wanted},
    *,
};

fn history_job(n: u8) -> JobId {
    job_id(n.into())
}

fn bucket_name(n: u8) -> BucketName {
    BucketName::new(format!("b{n}")).unwrap()
}

fn worker_id(n: u8) -> WorkerId {
    WorkerId::new(WORKERS[n as usize]).unwrap()
}

fn of(n: u8) -> TenantId {
    tenant(TENANTS[n as usize])
}

fn idempotency(key: Option<(u8, u8)>) -> Option<Idempotency> {
    key.map(|(key, body)| Idempotency { key: format!("k{key}"), body: format!("b{body}"), ttl_ms: 2_000 })
}

/// The labels that jobs of histories have, or not.
const TAG: &str = "nightly";
const HEADER: (&str, &str) = ("order", "7");

fn labels_of(bits: u8) -> (&'static [&'static str], &'static [(&'static str, &'static str)]) {
    (if bits & 1 > 0 { &[TAG] } else { &[] }, if bits & 2 > 0 { &[HEADER] } else { &[] })
}

fn requested(request: &JobRequest) -> NewJob {
    let (tags, headers) = labels_of(request.labels);
    let job = labelled(new_job(request.job.into()), tags, headers);
    NewJob {
        id: history_job(request.job),
        tenant: of(request.tenant),
        task: task(TASKS[request.task as usize]),
        queue: queue_name(QUEUES[request.queue as usize]),
        priority: request.priority,
        start: request.start,
        expires_ms: request.expires_ms,
        expires_at: request.expires_at,
        result_ttl_ms: request.keep.result_ms,
        dead_ttl_ms: request.keep.dead_ms,
        broker_options: request.broker_options.clone(),
        max_deliveries: 2 + u32::from(request.job % 3),
        idempotency: idempotency(request.key),
        redrive_of: request.redrive.map(history_job),
        blobs: blobs_of(request.blobs),
        ..job
    }
}

fn request_of(delivery: &Delivery, wanted: Wanted) -> Doing {
    let (tenant, id) = (delivery.tenant.clone(), delivery.id);
    match wanted {
        Wanted::Cancel { terminate } => Doing::Cancel(tenant, id, terminate),
        Wanted::Forget => Doing::Forget(tenant, id),
        Wanted::Redrive(job) => redrive(tenant, id, job),
    }
}

fn redrive(tenant: TenantId, id: JobId, job: u8) -> Doing {
    let queue = queue_name(QUEUES[0]);
    Doing::Submit(vec![NewJob { id: history_job(job), tenant, queue, redrive_of: Some(id), ..new_job(1) }], false)
}

/// Jobs that differ in their ids only; caps may limit them, but no rate: it would make the history long.
fn flood(request: &JobRequest, count: u32) -> Vec<NewJob> {
    let mut job = NewJob { idempotency: None, redrive_of: None, ..requested(request) };
    if let Some(broker_options) = &mut job.broker_options {
        broker_options.unique = None;
        if let Some(limits) = &mut broker_options.limits {
            (limits.rate, limits.key_rate) = (None, None);
        }
    }
    (0..count).map(|n| NewJob { id: job_id(1_000 + u64::from(n)), ..job.clone() }).collect()
}

impl History {
    /// What a step is, now.
    pub(super) async fn doing(&mut self, step: &Step) -> Doing {
        match step {
            Step::Submit { requests, again } => Doing::Submit(requests.iter().map(requested).collect(), *again),
            Step::Flood { request, count } => Doing::Submit(flood(request, *count), false),
            Step::Claim { worker, queues, max, limited, lost } => {
                let queues = match *queues {
                    3 => ClaimQueues::AllBut(vec![queue_name(QUEUES[1])]),
                    4.. => ClaimQueues::AllBut(Vec::new()),
                    named => QUEUES[..named as usize].iter().map(|name| queue_name(name)).collect::<Vec<_>>().into(),
                };
                let (few, most) = *limited;
                let limited = limited_to(most, &TENANTS[..few as usize]);
                let in_row = max.div_ceil(4);
                Doing::Claim(Claim { queues, limited, in_row, ..claim_of(WORKERS[*worker as usize], &[], *max) }, *lost)
            }
            Step::Renew { delivery, logs } => match self.delivery(*delivery) {
                Some(delivery) => {
                    let progress = umbel_model::Progress {
                        done: (*logs).into(),
                        total: 9,
                        message: "m".into(),
                        ..Default::default()
                    };
                    let logs = (0..u64::from(*logs)).map(line).collect();
                    Doing::Renew(Renewal { logs, progress: Some(progress), ..renewal_of(&delivery) })
                }
                None => Doing::Nothing,
            },
            Step::Settle { delivery, how, blobs, claim, again } => match self.delivery(*delivery) {
                Some(delivery) => {
                    let then = || claim_of("w2", &QUEUES, 2);
                    let mut settle = self.settle(&delivery, how);
                    if *blobs != (0, 0) {
                        let written = (0..BLOBS).filter(|n| blobs.0 & 1 << n > 0).map(blob_numbered).collect();
                        settle.blobs = Some(Box::new(SettledBlobs { written, refers: blobs_of(blobs.1) }));
                    }
                    let settles = vec![settle; 1 + usize::from(*again == Again::Within)];
                    Doing::Settle(settles, claim.then(then), (*again == Again::After).then(then))
                }
                None => Doing::Nothing,
            },
            Step::Promote { max } => Doing::Promote(*max),
            Step::Reap { max } => Doing::Reap(*max),
            Step::Prune { max } => Doing::Prune(*max),
            Step::Cancel { tenant, job, terminate } => Doing::Cancel(of(*tenant), history_job(*job), *terminate),
            Step::Purge { tenant, queue } => Doing::Purge(of(*tenant), queue_name(QUEUES[*queue as usize])),
            Step::Forget { tenant, job } => Doing::Forget(of(*tenant), history_job(*job)),
            Step::RunNow { tenant, job } => Doing::RunNow(of(*tenant), history_job(*job)),
            Step::OfDelivered { delivery, wanted } => match self.delivery(*delivery) {
                Some(delivery) => request_of(&delivery, *wanted),
                None => Doing::Nothing,
            },
            Step::Pass { .. } | Step::Reopen => Doing::Nothing,
            other => self.doing_of_operators(other).await,
        }
    }

    async fn doing_of_operators(&mut self, step: &Step) -> Doing {
        match step {
            Step::Pause { tenant, queue, paused } => {
                Doing::Pause(of(*tenant), queue_name(QUEUES[*queue as usize]), *paused)
            }
            Step::Control { tenant, scope, patch } => Doing::Control(of(*tenant), scope.clone(), patch.clone()),
            Step::LimitStorage { tenant, bytes } => Doing::LimitStorage(
                of(*tenant),
                StorageLimits { jobs: *bytes, documents: *bytes / 8, kv: *bytes / 4, blobs: *bytes },
            ),
            Step::KvWrite { delivery, tenant, bucket, key, expect, change } => {
                let delivery = delivery.and_then(|at| self.delivery(at));
                // Mostly as its job's tenant.
                let tenant = delivery.as_ref().filter(|_| *key > 0).map_or(of(*tenant), |it| it.tenant.clone());
                let (bucket, key) = (bucket_name(*bucket), kv_key(*key));
                let expect = self.kv_expect(&tenant, &bucket, &key, *expect).await;
                let delivery = delivery.map(|it| KvDelivery { job: it.id, token: it.token });
                Doing::KvWrite(Box::new(KvWrite { tenant, bucket, key, expect, change: change.clone(), delivery }))
            }
            Step::KvRead { tenant, bucket, after, max } => {
                let prefix = if *max == 2 { "a" } else { "" }.into();
                let (tenant, bucket, after) = (of(*tenant), bucket_name(*bucket), after.map(kv_key));
                Doing::KvRead(KvQuery { tenant, bucket, prefix, after, max: *max })
            }
            Step::KvDeleteBucket { tenant, bucket, max } => {
                Doing::KvDeleteBucket(of(*tenant), bucket_name(*bucket), *max)
            }
            Step::PutBlob { tenant, blob } => {
                Doing::PutBlob(PutBlob { tenant: of(*tenant), blob: blob_numbered(*blob) })
            }
            Step::DeleteBlob { tenant, blob } => Doing::DeleteBlob(of(*tenant), blob_digest(*blob)),
            Step::CollectBlobs { retention_ms, max } => Doing::CollectBlobs(*retention_ms, *max),
            Step::ReadBlobs { tenant, after, max } => Doing::ReadBlobs(of(*tenant), after.map(blob_digest), *max),
            Step::ChangeSchedules { requests, again } => {
                let mut steps = Vec::new();
                for request in requests {
                    steps.push(self.schedule_step(request).await);
                }
                Doing::ChangeSchedules(steps, *again)
            }
            Step::ReadSchedules { tenant, schedule, max } => Doing::ReadSchedules(of(*tenant), *schedule, *max),
            Step::Heartbeat { worker, order } => {
                Doing::Heartbeat(WorkerInfo { order: *order, ..worker_info(WORKERS[*worker as usize]) })
            }
            Step::Order { worker, order } => Doing::Order(worker_id(*worker), order.clone()),
            Step::Follow { tenant } => Doing::Follow(of(*tenant)),
            Step::Events { tenant, back, max } => {
                let last = self.model.events(&of(*tenant), 0, 0).await.unwrap().last;
                Doing::Events(of(*tenant), last.saturating_sub(*back), *max)
            }
            Step::ForgetWorker { worker } => Doing::ForgetWorker(worker_id(*worker)),
            Step::List { tenant, dead, state, worker, labels, before, max } => Doing::List(JobQuery {
                labels: labelled(new_job(0), labels_of(*labels).0, labels_of(*labels).1).labels,
                state: *state,
                worker: worker.map(worker_id),
                before: before.map(history_job),
                max: *max,
                ..all_jobs(&of(*tenant), *dead)
            }),
            other => self.doing_with_flows(other).await,
        }
    }

    async fn doing_with_flows(&mut self, step: &Step) -> Doing {
        match step {
            Step::Flow { request, parts } => {
                let mut flow = self.new_flow(of(request.tenant), &request.canvas);
                (flow.head.deadline_ms, flow.head.keep_ms) = (request.deadline_ms, request.keep_ms);
                flow.head.idempotency = idempotency(request.key);
                if let (Some(nodes), Some(first)) = (request.claims_nodes, flow.head.templates.first_mut()) {
                    first.nodes = nodes;
                }
                self.submitted.push((planned(&request.canvas.to_string()), flow.clone()));
                Doing::Flow(Box::new(flow), *parts)
            }
            Step::FlowAgain { flow, parts } => match pick(&self.submitted, *flow) {
                Some((_, flow)) => Doing::Flow(Box::new(flow.clone()), *parts),
                None => Doing::Nothing,
            },
            Step::Resume { flow } => self.resumed(*flow).await.unwrap_or(Doing::Nothing),
            Step::CancelFlow { flow } => match pick(&self.flows, *flow) {
                Some((tenant, id)) => Doing::CancelFlow(tenant.clone(), *id),
                None => Doing::Nothing,
            },
            Step::ForgetFlow { flow } => match pick(&self.flows, *flow) {
                Some((tenant, id)) => Doing::ForgetFlow(tenant.clone(), *id),
                None => Doing::Nothing,
            },
            Step::CancelNode { flow, node, terminate } => match self.node(*flow, *node).await {
                Some((tenant, id)) => Doing::Cancel(tenant, id, *terminate),
                None => Doing::Nothing,
            },
            Step::ForgetNode { flow, node } => match self.node(*flow, *node).await {
                Some((tenant, id)) => Doing::Forget(tenant, id),
                None => Doing::Nothing,
            },
            Step::RunNodeNow { flow, node } => match self.node(*flow, *node).await {
                Some((tenant, id)) => Doing::RunNow(tenant, id),
                None => Doing::Nothing,
            },
            Step::RedriveNode { flow, node, job } => match self.node(*flow, *node).await {
                Some((tenant, id)) => redrive(tenant, id, *job),
                None => Doing::Nothing,
            },
            Step::ListFlows { tenant, state, before, max } => {
                let before = before.and_then(|flow| Some(pick(&self.flows, flow)?.1));
                Doing::ListFlows(WorkflowQuery { tenant: of(*tenant), state: *state, before, max: *max })
            }
            _ => Doing::Nothing,
        }
    }

    async fn schedule_step(&self, request: &ScheduleRequest) -> ScheduleStep {
        let staged = match &request.start {
            Starting::Staged(at) => pick(&self.staged, *at),
            _ => None,
        };
        // A workflow that is staged has a schedule of its tenant.
        let tenant = staged.map_or(of(request.tenant), |(tenant, _)| tenant.clone());
        let name = schedule_name(SCHEDULES[request.schedule as usize]);
        let current = self.model.schedule(&tenant, &name).await.unwrap().map_or(0, |record| record.revision);
        let revision = match request.revision {
            Decided::Current => current,
            Decided::Other(by) => current.saturating_add_signed(by.into()),
            Decided::Absent => 0,
        };
        let now = self.subject.now.load(Ordering::SeqCst);
        let at = |ms: i64| now.saturating_add_signed(ms);
        let change = match request.change {
            // Nothing can be left of what is not there: mostly it is made.
            Change::Put { definition, state, look_ms } => ScheduleChange::Put {
                definition: definition.or((revision == 0 && state % 4 > 0).then_some(state)).map(|n| "d".repeat(n)),
                state: "s".repeat(state),
                look_at: look_ms.map(at),
            },
            Change::Delete => ScheduleChange::Delete,
        };
        let start = match &request.start {
            Starting::Nothing => None,
            Starting::Job(job) => {
                let job = requested(&JobRequest { tenant: request.tenant, ..(**job).clone() });
                Some(NewRun::Job(Box::new(job)))
            }
            Starting::Staged(_) => staged.map(|(_, id)| NewRun::Workflow(*id)),
            Starting::Any(at) => {
                let whole = |flow: &&(TenantId, WorkflowId)| flow.0 == tenant && !self.half_staged.contains(*flow);
                pick(&self.flows, *at).filter(whole).map(|(_, id)| NewRun::Workflow(*id))
            }
        };
        let fires = (0..request.fires).map(|n| format!("fire {n}")).collect();
        let not_before = request.not_before_ms.map_or(0, at);
        ScheduleStep { tenant, name, revision, not_before, change, fires, start }
    }

    /// What a write expects, by what is stored now.
    async fn kv_expect(&self, tenant: &TenantId, bucket: &BucketName, key: &KvKey, expect: KvExpect) -> Expect {
        let found = self.model.kv_get(tenant, bucket, std::slice::from_ref(key)).await.unwrap();
        let current = found.into_iter().flatten().next().map_or(0, |entry| entry.version);
        match expect {
            KvExpect::Any => Expect::Any,
            KvExpect::Absent => Expect::Absent,
            KvExpect::Current => Expect::Version(current),
            KvExpect::Other(by) => Expect::Version(current.saturating_add_signed(by.into())),
        }
    }

    /// Any delivery, but often one of the last ones: they are held still.
    fn delivery(&self, at: usize) -> Option<Delivery> {
        let last = &self.deliveries[self.deliveries.len().saturating_sub(4)..];
        pick(if at.is_multiple_of(3) { &self.deliveries } else { last }, at / 3).cloned()
    }

    fn new_flow(&mut self, tenant: TenantId, canvas: &serde_json::Value) -> NewWorkflow {
        let mut flow = flow(self.flows.len() as u64, &canvas.to_string());
        flow.head.tenant = tenant.clone();
        self.flows.push((tenant, flow.head.id));
        flow
    }

    /// A node of a workflow that can be seen.
    async fn node(&self, flow: usize, node: u32) -> Option<(TenantId, JobId)> {
        let (tenant, id) = pick(&self.flows, flow)?;
        self.model.workflow(tenant, *id).await.unwrap()?;
        Some((tenant.clone(), umbel_model::canvas::node_job(*id, node)))
    }

    pub(super) fn settle(&mut self, delivery: &Delivery, how: &How) -> Settle {
        let mut growth = None;
        let mut resolution = resolution(how);
        if let How::Grow { replaced, flows, members, .. } = how {
            let depth = delivery.node.as_ref().map_or(0, |node| node.depth) + 1;
            let mut new: Vec<NewWorkflow> =
                flows.iter().map(|canvas| self.new_flow(delivery.tenant.clone(), canvas)).collect();
            new.iter_mut().for_each(|flow| flow.head.depth = depth);
            if *replaced {
                new[0].head.parent = Some(delivery.id);
                resolution = Resolution::Replace { workflow: new[0].head.id };
            }
            let members = members.as_ref().map(|steps| {
                members_of(steps.iter().map(|step| serde_json::from_value(step.clone()).unwrap()).collect())
            });
            growth = Some(Box::new(Growth { workflows: new, members }));
        }
        if let Resolution::Succeed { result: Some(_) } = &resolution
            && self.deliveries.len().is_multiple_of(4)
        {
            // More than is stored in any case.
            resolution = succeed(&format!("\"{}\"", "x".repeat(4_500)));
        }
        let record = AttemptRecord {
            attempt: delivery.retries + 1,
            delivery: delivery.delivery,
            worker: WorkerId::new("w1").unwrap(),
            ended_at: START_MS,
            outcome: "error".into(),
            failure: None,
            usage: used(delivery.fence),
        };
        Settle { record: Some(record), logs: vec![line(1)], growth, ..settle_of(delivery, resolution) }
    }

    /// A workflow that does again what failed of one that is over and was not changed while it ran.
    async fn resumed(&mut self, flow: usize) -> Option<Doing> {
        let (plan, old) = pick(&self.submitted, flow)?.clone();
        let (tenant, id) = (old.head.tenant.clone(), old.head.id);
        let record = self.model.workflow(&tenant, id).await.unwrap()?;
        if !record.state.is_terminal() || record.nodes as usize != plan.nodes.len() {
            return None;
        }
        let mut ends = Vec::new();
        for first in (0..record.nodes).step_by(MAX_NODES_A_CALL as usize) {
            let page = self.model.nodes(&tenant, id, first, MAX_NODES_A_CALL, Results::Included).await.unwrap();
            ends.extend(page.nodes);
        }
        let end = |node: NodeRecord| match node.work {
            NodeWork::Job { record, .. } => (record.state, record.result, record.failure),
            NodeWork::Join { .. } => (JobState::Waiting, None, None),
        };
        let number = self.flows.len() as u64;
        let mut new = resumed_of(flow_id(number), plan, ends.into_iter().map(end).collect());
        new.head.tenant = tenant.clone();
        self.flows.push((tenant, new.head.id));
        Some(Doing::Flow(Box::new(new), Parts::All))
    }
}

/// Some usage, by a number that is another one for each delivery: also more than a sum can be.
fn used(n: u64) -> umbel_model::Usage {
    let of = |prime: u64| n.wrapping_mul(prime) % 1_000;
    let cpu_us = if n.is_multiple_of(3) { 0 } else { of(7) };
    let (kv_operations, blob_bytes_written) = (of(13), if n.is_multiple_of(11) { u64::MAX >> (n % 16) } else { 0 });
    let usage =
        umbel_model::Usage { fuel: of(3), duration_us: of(5), cpu_us, memory_kib_ms: of(11), ..Default::default() };
    if n.is_multiple_of(2) { usage } else { umbel_model::Usage { kv_operations, blob_bytes_written, ..usage } }
}

fn resolution(how: &How) -> Resolution {
    match how {
        How::Succeed => succeed(r#"{"ok":true}"#),
        How::SucceedUnkept => Resolution::Succeed { result: None },
        How::Fail => fail(),
        How::Retry(ms) => retry(*ms),
        How::Snooze(delay_ms) => Resolution::Snooze { delay_ms: *delay_ms },
        How::Revoke => Resolution::Revoke,
        How::Release => Resolution::Release,
        How::Grow { resolution: inner, .. } => resolution(inner),
    }
}

fn pick<T>(list: &[T], at: usize) -> Option<&T> {
    (!list.is_empty()).then(|| &list[at % list.len()])
}
