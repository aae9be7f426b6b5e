//! One random canvas on a broker, compared with the sequential model.

use super::{draw::Case, sequential::Expected, worker::Worker, *};

/// Runs random canvases on fresh subjects. A failing one is shrunk and shown with the seed.
pub async fn random_canvases<M, F>(make: M, canvases: Canvases)
where
    M: Fn() -> F,
    F: Future<Output = Subject>,
{
    let make = &make;
    let attempt = |case: Case| async move { attempt(&make().await, &case).await };
    random::search("canvas", draw::case(), canvases.count, canvases.seed, attempt).await;
}

async fn attempt(subject: &Subject, case: &Case) -> Result<(), String> {
    let named = case.named();
    let expected = sequential::run(&named);
    let flow = subject.begin_json(&named.canvas.to_string()).await;
    let mut worker = Worker::new(subject, &named, case.seed);
    let all = compare(subject, flow, &mut worker, &expected).await?;
    nothing_is_left(subject, &all).await
}

/// Runs the workflow and compares; the ids of it and of all that replaced its jobs.
async fn compare(
    s: &Subject,
    flow: Flow<'_>,
    worker: &mut Worker<'_>,
    expected: &Expected,
) -> Result<Vec<WorkflowId>, String> {
    worker.run(flow).await?;
    differ("calls", &expected.calls, &worker.calls)?;
    differ("inputs", &expected.inputs, &worker.inputs)?;
    worker.check_order(&expected.before)?;
    let mut states = BTreeMap::new();
    let all = collect_states(s, flow, &mut states).await;
    differ("states", &expected.states, &states)?;
    differ("the workflow's state", &expected.state, &Some(flow.state().await))?;
    let value = worker::read(
        workflow_value(&*s.broker, &umbel_broker::NoLargeValues, &tenant("t1"), flow.id, worker::MAX_VALUE_BYTES).await,
    );
    differ("the result", &expected.value, &value)?;
    let mut dead = Vec::new();
    for id in s.dead().await {
        dead.push(s.read(id).await.task.to_string());
    }
    dead.sort();
    differ("the dead set", &expected.dead, &dead)?;
    Ok(all)
}

/// The state of each job by its task, also in what replaced it.
async fn collect_states(s: &Subject, flow: Flow<'_>, states: &mut BTreeMap<String, JobState>) -> Vec<WorkflowId> {
    let mut all = vec![flow.id];
    let mut done = 0;
    while let Some(id) = all.get(done).copied() {
        done += 1;
        for job in s.flow(id).jobs().await {
            all.extend(job.child);
            assert!(states.insert(job.task.to_string(), job.state).is_none(), "{} is there once", job.task);
        }
    }
    all
}

/// Long after, nobody finds anything of it.
async fn nothing_is_left(s: &Subject, workflows: &[WorkflowId]) -> Result<(), String> {
    s.pass(10 * KEEP_MS);
    let promoted = s.broker.promote(1_000).await.unwrap();
    differ("promoted afterwards", &Promoted { moved: 0, expired: 0, opened: 0, next_due: None }, &promoted)?;
    differ(
        "reaped afterwards",
        &Reaped { requeued: 0, buried: 0, failed: 0, revoked: 0 },
        &s.broker.reap(1_000).await.unwrap(),
    )?;
    differ("ready afterwards", &0, &s.claim(10).await.len())?;
    while s.broker.prune(1_000).await.unwrap() > 0 {}
    differ("the dead set afterwards", &Vec::new(), &s.dead().await)?;
    for id in workflows {
        let flow = s.flow(*id);
        let gone = flow.is_gone().await && flow.nodes().await.is_empty();
        differ("gone", &true, &gone)?;
        let values = s.broker.values(&tenant("t1"), *id, 0, 300).await.unwrap();
        differ("values are missing", &true, &values.iter().all(|v| matches!(v, NodeValue::Missing)))?;
    }
    for queue in s.broker.queues(&tenant("t1")).await.unwrap() {
        differ("counts", &(0, 0, 0), &(queue.queued, queue.running, queue.delayed))?;
    }
    Ok(())
}
