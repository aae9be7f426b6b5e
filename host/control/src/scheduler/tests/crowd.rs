//! Schedules that fail, are slow, large or not readable, in front of one that is well: it fires all the same.

use async_trait::async_trait;
use umbel_compose::TaskFacts;
use umbel_model::TaskName;

use super::*;

/// Some tasks cannot be looked up as others can.
struct Moody {
    broker: Arc<dyn Broker>,
    others: BrokerTasks,
}

#[async_trait]
impl TaskSource for Moody {
    async fn task(&self, tenant: &TenantId, name: &TaskName) -> umbel_compose::Result<Option<Arc<TaskFacts>>> {
        match name.as_str() {
            "away" => Err(umbel_broker::Error::Unavailable("gone".into()).into()),
            "silent" => std::future::pending().await,
            // Until the job of another schedule is there.
            "patient" => {
                while jobs_of(&*self.broker).await.is_empty() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Ok(None)
            }
            _ => self.others.task(tenant, name).await,
        }
    }
}

fn named(name: &str) -> ScheduleName {
    ScheduleName::new(name).unwrap()
}

async fn stored(world: &World, tenant: &TenantId, name: &str) -> ScheduleRecord {
    world.broker.schedule(tenant, &named(name)).await.unwrap().unwrap()
}

#[tokio::test(start_paused = true)]
async fn one_that_fails_or_hangs_is_put_off_and_the_steps_of_others_are_sent_meanwhile() {
    let mut world = World::new().await;
    let others = BrokerTasks::new(world.broker.clone());
    let tasks: Arc<dyn TaskSource> = Arc::new(Moody { broker: world.broker.clone(), others });
    world.scheduler = Scheduler::new(world.broker.clone(), None, Rules::default(), Some(tasks));
    let bad = ["away", "silent"];
    for task in bad.into_iter().chain(["patient"]) {
        world.set_named(&named(task), json!({"start": {"task": task}})).await;
    }
    world.set(json!({})).await;
    let mut before = Vec::new();
    for name in bad {
        before.push(stored(&world, &tenant(), name).await.state);
    }
    world.at(MINUTE).await;
    assert_eq!(world.fired().await, [1]);
    let patient: FiringState = serde_json::from_str(&stored(&world, &tenant(), "patient").await.state).unwrap();
    assert!(patient.retry.unwrap().error.contains("no task `patient`"));
    for (after, pause) in [(0, 1_000), (1_000, 2_000)] {
        world.at(MINUTE + after).await;
        for (name, state) in bad.iter().zip(&before) {
            let record = stored(&world, &tenant(), name).await;
            assert_eq!((record.look_at, &record.state), (Some(START + MINUTE + after + pause), state), "{name}");
        }
    }
}

#[tokio::test]
async fn many_large_workflows_of_one_tenant_do_not_hide_a_job_of_another() {
    let world = World::new().await;
    let crowd = TenantId::new("crowd").unwrap();
    world.deploy_for(&crowd, b"first").await;
    let canvas = json!({"task": "report", "args": ["x".repeat(60 << 10)]});
    for number in 0..60 {
        let fields = json!({"start": {"canvas": canvas}, "when": {"every": "30s"}});
        world.set_for(&crowd, &named(&format!("flow{number}")), fields).await;
    }
    world.set(json!({})).await;
    world.now.store(START + MINUTE, Ordering::SeqCst);
    for _ in 0..6 {
        world.scheduler.step(&*world.broker).await.unwrap();
    }
    assert_eq!(world.fired().await, [1]);
    for later in 1..10 {
        world.at(MINUTE + later * WORKFLOW_LATER_MS).await;
    }
    let query = WorkflowQuery { tenant: crowd, state: None, before: None, max: 500 };
    assert_eq!(world.broker.workflows(&query).await.unwrap().workflows.len(), 60);
}

#[tokio::test]
async fn workflows_of_tenants_are_started_in_turns() {
    let world = World::new().await;
    let canvas = json!({"start": {"canvas": {"task": "report"}}});
    let crowd = TenantId::new("crowd").unwrap();
    world.deploy_for(&crowd, b"first").await;
    for number in 0..20 {
        world.set_for(&crowd, &named(&format!("flow{number}")), canvas.clone()).await;
    }
    world.set(canvas).await;
    world.now.store(START + MINUTE, Ordering::SeqCst);
    world.scheduler.step(&*world.broker).await.unwrap();
    let query = WorkflowQuery { tenant: tenant(), state: None, before: None, max: 10 };
    assert_eq!(world.broker.workflows(&query).await.unwrap().workflows.len(), 1);
}

#[tokio::test]
async fn many_that_a_newer_release_stored_hide_nobody_and_keep_their_states() {
    let world = World::new().await;
    let text = format!(r#"{{"v":200,"start":"{}"}}"#, "x".repeat(20 << 10));
    let state = r#"{"odd": 1,  "key":"k"}"#;
    for number in 0..200 {
        let change =
            ScheduleChange::Put { definition: Some(text.clone()), state: state.to_owned(), look_at: Some(START) };
        world.put(&named(&format!("newer{number}")), change).await;
    }
    world.set(json!({})).await;
    world.now.store(START + MINUTE, Ordering::SeqCst);
    for _ in 0..6 {
        world.scheduler.step(&*world.broker).await.unwrap();
    }
    assert_eq!(world.fired().await, [1]);
    for number in [0, 199] {
        let record = stored(&world, &tenant(), &format!("newer{number}")).await;
        assert_eq!((record.look_at, &*record.state, record.fires), (Some(START + 2 * MINUTE), state, 0));
        assert_eq!((record.version, record.definition == text), (1, true));
    }
}

#[test]
fn definitions_that_are_kept_make_room_one_by_one() {
    let text = r#"{"start":{"task":"a"},"when":{"every":"60s"}}"#;
    let definition = Arc::new(Definition::parse(text).unwrap());
    let mut kept = Kept::default();
    let size = MAX_KEPT_BYTES / 4;
    for name in ["a", "b", "c", "d", "b", "e"] {
        kept.insert((tenant(), named(name)), "x".repeat(size), definition.clone());
    }
    let mut names: Vec<&str> = kept.definitions.keys().map(|(_, name)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!((names, kept.bytes), (vec!["b", "c", "d", "e"], 4 * size));
}
