//! Workflows under test, made of canvases in JSON, and what must hold in a file whatever happened to them.

use std::collections::HashMap;

use umbel_model::{
    OnFailure, UnixMs, WorkflowId,
    canvas::{self, Canvas, CanvasLimits, Node, Range, Work},
};

use super::*;
use crate::audit;

pub(super) const KEEP_MS: u64 = 60_000;

pub(super) fn flow_id(n: u64) -> WorkflowId {
    canvas::workflow_id(JobId::from_parts(1_800_000_000_000, u128::from(n + 1) << 40))
}

/// Workflow `n` of this canvas. A step's `options` may be `{"delay_ms": …, "expires_ms": …, "queue": …}`.
pub(super) fn flow(n: u64, json: &str) -> NewWorkflow {
    let plan = canvas::plan(serde_json::from_str(json).unwrap(), CanvasLimits::default()).unwrap();
    let (templates, nodes) = stored(&plan.nodes);
    let head = WorkflowHead {
        id: flow_id(n),
        tenant: tenant(),
        spec: format!(r#"{{"v":1,"name":"{n}"}}"#),
        templates,
        nodes: nodes.len() as u32,
        starts: plan.starts,
        end: plan.end,
        deadline_ms: 0,
        keep_ms: KEEP_MS,
        idempotency: None,
        parent: None,
        depth: 0,
    };
    NewWorkflow { head, nodes }
}

/// A chord of so many members.
pub(super) fn chord(n: u64, members: usize) -> NewWorkflow {
    let members = vec![r#"{"task":"member"}"#; members].join(",");
    flow(n, &format!(r#"{{"chord":[{members}],"body":{{"task":"body"}}}}"#))
}

/// More members for a group: a JSON array of steps.
pub(super) fn members(json: &str) -> NewMembers {
    let steps: Vec<Canvas> = serde_json::from_str(json).unwrap();
    let (plan, ends) = canvas::plan_members(steps, None, CanvasLimits::default()).unwrap();
    let (templates, nodes) = stored(&plan.nodes);
    NewMembers { templates, nodes, ends, starts: plan.starts }
}

fn stored(nodes: &[Node]) -> (Vec<NodeTemplate>, Vec<NewNode>) {
    let (mut templates, mut known) = (Vec::new(), HashMap::new());
    let nodes = nodes.iter().map(|node| stored_node(node, &mut templates, &mut known)).collect();
    (templates, nodes)
}

fn stored_node(node: &Node, templates: &mut Vec<NodeTemplate>, known: &mut HashMap<String, u32>) -> NewNode {
    let work = match &node.work {
        Work::Join(join) => NewWork::Join {
            members: join.members.clone(),
            scope: join.scope.clone(),
            cancel_rest: join.cancel_rest,
            pending: join.pending,
            failed: 0,
            skipped: 0,
            kept: false,
        },
        Work::Job(signature) => {
            let options = signature.options.as_ref().map_or("{}", |options| options.get());
            let template = *known.entry(format!("{} {options}", signature.task)).or_insert_with(|| {
                templates.push(template(signature.task.clone(), options));
                templates.len() as u32 - 1
            });
            templates[template as usize].nodes += 1;
            NewWork::Job {
                template,
                arguments: r#"{"args":[1]}"#.into(),
                takes: node.takes,
                kept: None,
                broker_options: None,
                blobs: Vec::new(),
            }
        }
    };
    let (when, on_failure): (_, OnFailure) = (node.when, node.on_failure);
    NewNode { when, on_failure, after: node.after, group: node.group, next: node.next.clone(), work }
}

fn template(task: TaskName, options: &str) -> NodeTemplate {
    let options: serde_json::Value = serde_json::from_str(options).unwrap();
    let delay_ms = options["delay_ms"].as_u64();
    NodeTemplate {
        spec: format!(r#"{{"task":"{task}"}}"#),
        task,
        queue: QueueName::new(options["queue"].as_str().unwrap_or("default")).unwrap(),
        priority: 5,
        start: delay_ms.map_or(Start::Now, Start::After),
        expires_ms: options["expires_ms"].as_u64().unwrap_or(0),
        max_deliveries: 3,
        nodes: 0,
    }
}

/// What in a file contradicts itself: counts that are wrong, rows that belong to nobody.
pub(super) fn contradictions(path: &Path) -> Vec<String> {
    let found = audit::findings(&schema::open_reader(path).unwrap()).unwrap();
    found.into_iter().map(|finding| format!("{} {}: {}", finding.count, finding.check, finding.example)).collect()
}

/// Rows of every table in which workflows leave something.
pub(super) fn left_over(path: &Path) -> i64 {
    let conn = schema::open_reader(path).unwrap();
    let tables =
        ["job", "spec", "outcome", "history", "knobs", "workflow", "workflow_spec", "template", "node", "gate", "todo"];
    let count =
        |table| conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0)).unwrap();
    tables.into_iter().map(count).sum()
}

fn open(path: &Path, clock: &Clock) -> SqliteBroker {
    SqliteBroker::open(SqliteConfig { clock: clock.clone(), ..config(path) }).unwrap()
}

fn start_clock() -> (Clock, Arc<std::sync::atomic::AtomicU64>) {
    let start: UnixMs = 1_800_000_000_000;
    Clock::manual(start)
}

async fn begin(broker: &SqliteBroker, new: &NewWorkflow) {
    assert_eq!(submit_workflow(broker, &new.head, &new.nodes).await.unwrap(), WorkflowSubmitted::Created);
}

#[tokio::test]
async fn work_items_that_are_half_done_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let clock = start_clock().0;
    let broker = open(folder.path(), &clock);
    let members = 2 * ADVANCE + 500;
    begin(&broker, &chord(1, members as usize)).await;
    let queued = || async { open(folder.path(), &clock).queues(&tenant()).await.unwrap()[0].queued };
    drop(broker);
    assert_eq!(queued().await, u64::from(ADVANCE));
    assert_eq!(open(folder.path(), &clock).promote(0).await.unwrap().next_due, clock.fixed_now());
    assert_eq!(queued().await, u64::from(2 * ADVANCE));

    // Cancelled in front of what is not ready yet: both in their turn.
    let broker = open(folder.path(), &clock);
    assert_eq!(broker.cancel_workflow(&tenant(), flow_id(1)).await.unwrap(), WorkflowCancelled::Requested);
    drop(broker);
    let broker = open(folder.path(), &clock);
    while broker.promote(0).await.unwrap().next_due.is_some() {}
    let record = broker.workflow(&tenant(), flow_id(1)).await.unwrap().unwrap();
    assert_eq!((record.state, record.jobs.iter().sum::<u32>()), (WorkflowState::Revoked, members + 1));
    drop(broker);
    assert_eq!(contradictions(&folder.path().join("umbel.db")), [""; 0]);
}

#[tokio::test]
async fn what_retention_deletes_of_workflows_leaves_no_row_behind() {
    let folder = tempfile::tempdir().unwrap();
    let (clock, now) = start_clock();
    let broker = open(folder.path(), &clock);
    for n in 0..3 {
        begin(&broker, &chord(n, 30)).await;
    }
    // One that nobody starts, too.
    let staged = chord(3, 30);
    broker.stage_workflow(&staged.head).await.unwrap();
    broker.stage_nodes(&tenant(), flow_id(3), 0, &staged.nodes).await.unwrap();
    assert_eq!(work_off(&broker, 1).await, 3 * 31);
    now.fetch_add(STAGED_TTL_MS.max(KEEP_MS), std::sync::atomic::Ordering::SeqCst);
    assert_eq!(contradictions(&folder.path().join("umbel.db")), [""; 0]);
    while broker.prune(7).await.unwrap() > 0 {
        assert_eq!(contradictions(&folder.path().join("umbel.db")), [""; 0]);
    }
    assert_eq!(left_over(&folder.path().join("umbel.db")), 0);
}

#[tokio::test]
async fn a_replacement_that_outlives_its_job_is_deleted_when_it_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let (clock, now) = start_clock();
    let broker = open(folder.path(), &clock);
    let pass = |ms| now.fetch_add(ms, std::sync::atomic::Ordering::SeqCst);
    broker.submit(&[new_job(1)]).await.unwrap();
    let held = broker.claim(&claim(1, 1)).await.unwrap().remove(0);
    let canvas = r#"{"task":"end","link":[{"task":"late"},{"task":"later","options":{"delay_ms":100000}}]}"#;
    let mut child = flow(1, canvas);
    child.head.parent = Some(held.id);
    let replace = Resolution::Replace { workflow: child.head.id };
    let growth = Growth { workflows: vec![child], members: None };
    let settle = Settle { resolution: replace, growth: Some(Box::new(growth)), ..succeed(&held) };
    let (settled, ends) = broker.settle(&[settle], Some(&claim(2, 1))).await.unwrap();
    assert_eq!((settled, ends.len()), (vec![Settled::Recorded], 1));
    assert_eq!(broker.cancel(&tenant(), held.id, true).await.unwrap(), Cancelled::Revoked);

    pass(60_000);
    assert_eq!(broker.prune(10).await.unwrap(), 1);
    assert!(broker.job(&tenant(), held.id).await.unwrap().is_none());
    let revoked = Settle { resolution: Resolution::Revoke, ..succeed(&ends[0]) };
    assert_eq!(broker.settle(&[revoked], None).await.unwrap().0, [Settled::Recorded]);
    while broker.prune(1).await.unwrap() > 0 {}
    assert_eq!(left_over(&folder.path().join("umbel.db")), 0);
}

#[tokio::test]
async fn a_page_of_jobs_jumps_over_workflows_however_large_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path(), &start_clock().0);
    // Older and newer than the nodes of both workflows.
    let jobs = [1, 2, u64::MAX].map(new_job);
    broker.submit(&jobs).await.unwrap();
    for n in 0..2 {
        begin(&broker, &chord(n, 1_500)).await;
    }
    let query = JobQuery {
        tenant: tenant(),
        dead: false,
        state: None,
        task: None,
        queue: None,
        worker: None,
        labels: Vec::new(),
        before: None,
        max: 2,
    };
    let page = broker.jobs(&query).await.unwrap();
    assert_eq!(page.jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [jobs[2].id, jobs[1].id]);
    let page = broker.jobs(&JobQuery { before: page.next, ..query }).await.unwrap();
    assert_eq!(page.jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [jobs[0].id]);
    assert_eq!(page.next, None);
}

#[tokio::test]
async fn many_settles_of_one_group_are_counted_by_their_join_once_each() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path(), &start_clock().0);
    begin(&broker, &chord(1, 120)).await;
    let held = broker.claim(&claim(1, 120)).await.unwrap();
    // All at once, so that some share a transaction, and each twice.
    let settles: Vec<[Settle; 1]> = held.iter().chain(&held).map(|delivery| [succeed(delivery)]).collect();
    let answers = futures::future::join_all(settles.iter().map(|settle| broker.settle(settle, None))).await;
    let recorded = answers.into_iter().map(|answer| answer.unwrap().0[0]).filter(|s| *s == Settled::Recorded).count();
    assert_eq!(recorded, 120);
    let bodies = broker.claim(&claim(2, 10)).await.unwrap();
    assert_eq!(bodies.len(), 1);
    assert_eq!(contradictions(&folder.path().join("umbel.db")), [""; 0]);
}

#[tokio::test]
async fn growth_of_a_full_database_is_refused_and_the_job_can_still_end() {
    let folder = tempfile::tempdir().unwrap();
    let config = SqliteConfig { max_size_bytes: 1 << 20, ..config(folder.path()) };
    let broker = SqliteBroker::open(config).unwrap();
    begin(&broker, &chord(1, 3)).await;
    let held = broker.claim(&claim(1, 1)).await.unwrap().remove(0);
    let mut n = 10;
    while broker.submit(&[sized_job(n, 20_000)]).await.is_ok() {
        n += 1;
    }
    assert!(matches!(broker.stage_workflow(&chord(2, 1).head).await, Err(Error::Full(_))));
    let growth = Growth { workflows: vec![chord(3, 3)], members: Some(members(r#"[{"task":"more"}]"#)) };
    let grow = Settle { growth: Some(Box::new(growth)), ..succeed(&held) };
    assert_eq!(broker.settle(&[grow], None).await.unwrap().0, [Settled::NoCapacity]);
    assert!(broker.workflow(&tenant(), flow_id(3)).await.unwrap().is_none());
    assert_eq!(broker.settle(&[succeed(&held)], None).await.unwrap().0, [Settled::Recorded]);
    work_off(&broker, 2).await;
    let record = broker.workflow(&tenant(), flow_id(1)).await.unwrap().unwrap();
    assert_eq!(record.state, WorkflowState::Succeeded);
    assert_eq!(contradictions(&folder.path().join("umbel.db")), [""; 0]);
}

#[tokio::test]
async fn an_operation_that_fails_beside_others_of_its_group_leaves_no_work_item() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(folder.path(), &start_clock().0);
    for n in 0..20 {
        let new = chord(n, 4);
        broker.stage_workflow(&new.head).await.unwrap();
        broker.stage_nodes(&tenant(), new.head.id, 0, &new.nodes).await.unwrap();
    }
    // A node of a template that the workflow does not have cannot be stored: the whole group is done again without it.
    let broken = |n| {
        let mut node = chord(n, 1).nodes.remove(1);
        if let NewWork::Job { template, .. } = &mut node.work {
            *template = 99;
        }
        [node]
    };
    let broken: Vec<_> = (0..20).map(broken).collect();
    let fails = broken.iter().map(|node| broker.stage_nodes(tenant_ref(), flow_id(19), 0, node));
    let starts = (0..19).map(|n| broker.start_workflow(tenant_ref(), flow_id(n)));
    let (failed, started) =
        futures::future::join(futures::future::join_all(fails), futures::future::join_all(starts)).await;
    assert!(failed.iter().all(Result::is_err));
    assert!(started.into_iter().all(|answer| answer.unwrap() == WorkflowSubmitted::Created));
    assert_eq!(work_off(&broker, 1).await, 19 * 5);
    assert_eq!(contradictions(&folder.path().join("umbel.db")), [""; 0]);
    let all = Range { first: 0, count: 6 };
    let page = broker.nodes(&tenant(), flow_id(19), all.first, all.count, Results::Omitted).await.unwrap();
    assert_eq!(page.nodes.len(), 6);
}
