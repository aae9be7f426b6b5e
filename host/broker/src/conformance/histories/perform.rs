//! One step of a history on one broker.

use super::*;

/// A step with all that it names: the same for the model and for the broker.
#[derive(Debug, Clone)]
pub(super) enum Doing {
    Nothing,
    Submit(Vec<NewJob>),
    Claim(Claim),
    Renew(Renewal),
    Settle(Box<Settle>, Option<Claim>),
    Promote(u32),
    Reap(u32),
    Prune(u32),
    Cancel(TenantId, JobId),
    RunNow(TenantId, JobId),
    Pause(TenantId, QueueName, bool),
    List(JobQuery),
    Flow(Box<NewWorkflow>, Parts),
    CancelFlow(TenantId, WorkflowId),
    ListFlows(WorkflowQuery),
}

/// Does it; the answer as text, and what was claimed by it.
pub(super) async fn perform(broker: &dyn Broker, doing: &Doing) -> (String, Vec<Delivery>) {
    let mut claimed = Vec::new();
    let answer = match doing {
        Doing::Nothing => String::new(),
        Doing::Submit(jobs) => format!("{:?}", broker.submit(jobs).await),
        Doing::Claim(claim) => {
            claimed = broker.claim(claim).await.unwrap();
            format!("{claimed:?}")
        }
        Doing::Renew(renewal) => {
            format!("{:?}", broker.renew(DEFAULT_LEASE_MS, std::slice::from_ref(renewal)).await)
        }
        Doing::Settle(settle, then) => {
            let twice = [(**settle).clone(), (**settle).clone()];
            let (settled, more) = broker.settle(&twice, then.as_ref()).await.unwrap();
            claimed = more;
            format!("{settled:?} {claimed:?}")
        }
        Doing::Promote(max) => format!("{:?}", broker.promote(*max).await),
        Doing::Reap(max) => format!("{:?}", broker.reap(*max).await),
        Doing::Prune(max) => format!("{:?}", broker.prune(*max).await),
        Doing::Cancel(tenant, id) => format!("{:?}", broker.cancel(tenant, *id).await),
        Doing::RunNow(tenant, id) => format!("{:?}", broker.run_now(tenant, *id).await),
        Doing::Pause(tenant, queue, paused) => format!("{:?}", broker.set_paused(tenant, queue, *paused).await),
        Doing::List(query) => format!("{:?} {:?}", broker.jobs(query).await, broker.ready_queues().await),
        Doing::Flow(flow, parts) => submit_parts(broker, flow, *parts).await,
        Doing::CancelFlow(tenant, id) => format!("{:?}", broker.cancel_workflow(tenant, *id).await),
        Doing::ListFlows(query) => format!("{:?}", broker.workflows(query).await),
    };
    (answer, claimed)
}

/// Goes on whatever the answers are, as one does whose replies are lost.
async fn submit_parts(broker: &dyn Broker, flow: &NewWorkflow, parts: Parts) -> String {
    let (t, id) = (&flow.head.tenant, flow.head.id);
    let mut answers = vec![broker.stage_workflow(&flow.head).await.unwrap()];
    if parts != Parts::Head {
        let size = MAX_NODES_A_CALL as usize;
        for (at, nodes) in flow.nodes.chunks(size).enumerate() {
            answers.push(broker.stage_nodes(t, id, (at * size) as u32, nodes).await.unwrap());
        }
    }
    if parts == Parts::All {
        answers.push(broker.start_workflow(t, id).await.unwrap());
    }
    format!("{answers:?}")
}

fn history_job(n: u8) -> JobId {
    job_id(n.into())
}

fn of(n: u8) -> TenantId {
    tenant(TENANTS[n as usize])
}

fn idempotency(key: Option<(u8, u8)>) -> Option<Idempotency> {
    key.map(|(key, body)| Idempotency { key: format!("k{key}"), body: format!("b{body}"), ttl_ms: 2_000 })
}

fn wished(wish: &Wish) -> NewJob {
    NewJob {
        id: history_job(wish.job),
        tenant: of(wish.tenant),
        queue: queue_name(QUEUES[wish.queue as usize]),
        priority: wish.priority,
        start: wish.start,
        expires_ms: wish.expires_ms,
        max_deliveries: 2 + u32::from(wish.job % 3),
        idempotency: idempotency(wish.key),
        redrive_of: wish.redrive.map(history_job),
        ..new_job(wish.job.into())
    }
}

impl History {
    /// What a step is, now.
    pub(super) async fn doing(&mut self, step: &Step) -> Doing {
        match step {
            Step::Submit(wishes) => Doing::Submit(wishes.iter().map(wished).collect()),
            Step::Claim { queues, max } => Doing::Claim(claim_of("w1", &QUEUES[..(*queues as usize).min(2)], *max)),
            Step::Renew { delivery, logs } => match self.delivery(*delivery) {
                Some(delivery) => {
                    let progress = umbel_model::Progress { done: (*logs).into(), total: 9, message: "m".into() };
                    let logs = (0..u64::from(*logs)).map(line).collect();
                    Doing::Renew(Renewal { logs, progress: Some(progress), ..renewal_of(&delivery) })
                }
                None => Doing::Nothing,
            },
            Step::Settle { delivery, how, claim } => match self.delivery(*delivery) {
                Some(delivery) => {
                    let then = claim.then(|| claim_of("w2", &QUEUES, 2));
                    Doing::Settle(Box::new(self.settle(&delivery, how)), then)
                }
                None => Doing::Nothing,
            },
            Step::Promote { max } => Doing::Promote(*max),
            Step::Reap { max } => Doing::Reap(*max),
            Step::Prune { max } => Doing::Prune(*max),
            Step::Cancel { tenant, job } => Doing::Cancel(of(*tenant), history_job(*job)),
            Step::RunNow { tenant, job } => Doing::RunNow(of(*tenant), history_job(*job)),
            Step::Pause { tenant, queue, paused } => {
                Doing::Pause(of(*tenant), queue_name(QUEUES[*queue as usize]), *paused)
            }
            Step::List { tenant, dead, state, before, max } => Doing::List(JobQuery {
                tenant: of(*tenant),
                dead: *dead,
                state: *state,
                task: None,
                queue: None,
                before: before.map(history_job),
                max: *max,
            }),
            Step::Pass { .. } => Doing::Nothing,
            other => self.doing_with_flows(other).await,
        }
    }

    async fn doing_with_flows(&mut self, step: &Step) -> Doing {
        match step {
            Step::Flow { wish, parts } => {
                let mut flow = self.new_flow(of(wish.tenant), &wish.canvas);
                (flow.head.deadline_ms, flow.head.keep_ms) = (wish.deadline_ms, wish.keep_ms);
                flow.head.idempotency = idempotency(wish.key);
                if let (Some(nodes), Some(first)) = (wish.claims_nodes, flow.head.templates.first_mut()) {
                    first.nodes = nodes;
                }
                self.submitted.push((planned(&wish.canvas.to_string()), flow.clone()));
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
            Step::CancelNode { flow, node } => match self.node(*flow, *node).await {
                Some((tenant, id)) => Doing::Cancel(tenant, id),
                None => Doing::Nothing,
            },
            Step::RunNodeNow { flow, node } => match self.node(*flow, *node).await {
                Some((tenant, id)) => Doing::RunNow(tenant, id),
                None => Doing::Nothing,
            },
            Step::RedriveNode { flow, node, job } => match self.node(*flow, *node).await {
                Some((tenant, id)) => {
                    let queue = queue_name(QUEUES[0]);
                    let job = NewJob { id: history_job(*job), tenant, queue, redrive_of: Some(id), ..new_job(1) };
                    Doing::Submit(vec![job])
                }
                None => Doing::Nothing,
            },
            Step::ListFlows { tenant, state, before, max } => {
                let before = before.and_then(|flow| Some(pick(&self.flows, flow)?.1));
                Doing::ListFlows(WorkflowQuery { tenant: of(*tenant), state: *state, before, max: *max })
            }
            _ => Doing::Nothing,
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
        let record = AttemptRecord {
            attempt: delivery.retries + 1,
            delivery: delivery.delivery,
            worker: WorkerId::new("w1").unwrap(),
            ended_at: START_MS,
            outcome: "error".into(),
            failure: None,
            usage: umbel_model::Usage::default(),
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
            ends.extend(self.model.nodes(&tenant, id, first, MAX_NODES_A_CALL).await.unwrap());
        }
        let end = |node: NodeRecord| match node.work {
            NodeWork::Job { record, .. } => (record.state, record.result, record.failure),
            NodeWork::Gate { .. } => (JobState::Waiting, None, None),
        };
        let number = self.flows.len() as u64;
        let mut new = resumed_of(flow_id(number), plan, ends.into_iter().map(end).collect());
        new.head.tenant = tenant.clone();
        self.flows.push((tenant, new.head.id));
        Some(Doing::Flow(Box::new(new), Parts::All))
    }
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
