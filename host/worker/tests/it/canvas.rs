//! Nodes of workflows: what goes in front of their arguments, and how they end.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use umbel_broker::{WorkflowState, WorkflowSubmitted, Workflows, submit_workflow, workflow_value};
use umbel_compose::{Composer, Head, Result, Rules, TaskFacts, TaskSource};
use umbel_model::{
    Digest, JobId, JobRecord, JobState, ParameterText, PolicyPatch, Stamps, TaskName, TenantId, WorkflowId,
    canvas::{node_job, workflow_id},
};

use crate::support::{World, outcomes, tenant};

/// One task of one parameter.
struct Tasks(Digest);

#[async_trait]
impl TaskSource for Tasks {
    async fn task(&self, _: &TenantId, name: &TaskName) -> Result<Option<Arc<TaskFacts>>> {
        Ok(Some(Arc::new(TaskFacts {
            name: name.clone(),
            digest: self.0,
            policy: PolicyPatch { max_retries: Some(0), ..PolicyPatch::default() },
            parameters: vec![ParameterText { name: "d".into(), default: None }],
            checker: None,
        })))
    }
}

async fn submit(world: &World, canvas: &str) -> WorkflowId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    // The low 32 bits are the node's.
    let id = workflow_id(JobId::from_parts(7, u128::from(NEXT.fetch_add(1, Ordering::SeqCst)) << 32));
    let (tasks, rules, tenant, stamps) = (Tasks(world.digest), Rules::default(), tenant(), Stamps::default());
    let composer = Composer { tasks: &tasks, rules: &rules, tenant: &tenant, stamps: &stamps, now_ms: 0, pointer: "" };
    let composed = composer.workflow(serde_json::from_str(canvas).unwrap(), Head::new(id)).await.unwrap();
    let answer = submit_workflow(&*world.broker, &composed.head, &composed.nodes).await.unwrap();
    assert_eq!(answer, WorkflowSubmitted::Created);
    id
}

async fn node(world: &World, workflow: WorkflowId, number: u32) -> JobRecord {
    world.ended(node_job(workflow, number)).await
}

async fn value(world: &World, workflow: WorkflowId) -> String {
    workflow_value(&*world.broker, &world.runtime, &tenant(), workflow, 1 << 20).await.unwrap()
}

#[tokio::test]
async fn a_step_takes_the_result_of_the_one_before_it() {
    let world = World::new().await;
    let _worker = world.start();
    let id = submit(&world, r#"{"chain":[{"task":"task","args":["e"]},{"task":"task"}]}"#).await;
    assert_eq!(node(&world, id, 1).await.result.unwrap().get(), r#"{"d":{"d":"e"}}"#);
}

#[tokio::test]
async fn a_result_that_is_ignored_is_handed_on_within_its_workflow() {
    let world = World::new().await;
    let _worker = world.start();
    let ignoring = r#""options":{"ignore_result":true}"#;
    let canvas = format!(
        r#"{{"chord":[{{"task":"task","args":["e1"],{ignoring}}},{{"task":"task","map":["e2"],{ignoring}}}],"body":{{"task":"task"}}}}"#
    );
    let id = submit(&world, &canvas).await;
    node(&world, id, 3).await;
    assert_eq!(value(&world, id).await, r#"{"d":[{"d":"e1"},[{"d":"e2"}]]}"#);
}

#[tokio::test]
async fn a_body_takes_the_list_of_its_members_results() {
    let world = World::new().await;
    let _worker = world.start();
    let id = submit(
        &world,
        r#"{"chord":[{"task":"task","args":["e1"]},{"task":"task","args":["e2"]}],"body":{"task":"task"}}"#,
    )
    .await;
    node(&world, id, 3).await;
    assert_eq!(value(&world, id).await, r#"{"d":[{"d":"e1"},{"d":"e2"}]}"#);
    assert_eq!(world.broker.workflow(&tenant(), id).await.unwrap().unwrap().state, WorkflowState::Succeeded);
}

#[tokio::test]
async fn an_error_callback_takes_the_error() {
    let world = World::new().await;
    let _worker = world.start();
    let id = submit(&world, r#"{"task":"task","args":["f"],"link_error":[{"task":"task"}]}"#).await;
    let callback = node(&world, id, 1).await;
    let result = callback.result.unwrap();
    assert!(result.get().contains(r#""kind":"kind""#), "{result}");
    assert_eq!(node(&world, id, 0).await.state, JobState::Failed);
}

#[tokio::test]
async fn a_map_is_one_job_with_a_list_as_its_result() {
    let world = World::new().await;
    let _worker = world.start();
    let id = submit(&world, r#"{"task":"task","map":["e1","e2","e3"]}"#).await;
    let job = node(&world, id, 0).await;
    assert_eq!(job.result.as_ref().unwrap().get(), r#"[{"d":"e1"},{"d":"e2"},{"d":"e3"}]"#);
    assert_eq!(outcomes(&job), ["succeeded"]);
    let failing = submit(&world, r#"{"task":"task","map":["e1","f","s"]}"#).await;
    let job = node(&world, failing, 0).await;
    assert_eq!((job.state, outcomes(&job)), (JobState::Failed, vec!["fatal"]));
}

#[tokio::test]
async fn an_immutable_step_takes_nothing() {
    let world = World::new().await;
    let _worker = world.start();
    let step = r#"{"task":"task","immutable":true,"args":["e2"]}"#;
    let id = submit(&world, &format!(r#"{{"chain":[{{"task":"task","args":["e"]}},{step}]}}"#)).await;
    assert_eq!(node(&world, id, 1).await.result.unwrap().get(), r#"{"d":"e2"}"#);
}

#[tokio::test]
async fn a_step_takes_a_large_result_of_the_one_before_it() {
    let world = World::new().await;
    let _worker = world.start();
    let id = submit(&world, r#"{"chain":[{"task":"task","args":["b"]},{"task":"task"}]}"#).await;
    assert_eq!(node(&world, id, 1).await.state, JobState::Succeeded);
    assert_eq!(value(&world, id).await, format!(r#"{{"d":"{}"}}"#, "e".repeat(70_000)));
}
