//! Firing on the in-memory broker, whose clock the tests set. A step is called by hand, so nothing here waits.

mod crowd;

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use umbel_broker::{
    Claim, Clock, DocumentKind, DocumentPut, Expect, JobQuery, LimitedTenants, Limits, PutDocument, ScheduleChange,
    ScheduleStep, Settle, WorkflowQuery,
};
use umbel_broker_conformance::MemoryBroker;
use umbel_compose::TaskDocument;
use umbel_model::{Digest, Failure, JobId, JobRecord, JobState, QueueName, Resolution, Token, WorkerId};
use umbel_schedule::firing::{Backfill, FireRecord, FiringState, Pause, Verdict, created};

use super::*;

const START: UnixMs = 1_800_000_000_000;
const MINUTE: u64 = 60_000;

fn tenant() -> TenantId {
    TenantId::new("t").unwrap()
}

fn name() -> ScheduleName {
    ScheduleName::new("nightly").unwrap()
}

struct World {
    broker: Arc<dyn Broker>,
    now: Arc<AtomicU64>,
    scheduler: Scheduler,
}

impl World {
    async fn new() -> Self {
        let world = Self::with(Limits::default());
        world.deploy(b"first").await;
        world
    }

    /// Without a task.
    fn with(limits: Limits) -> Self {
        let (clock, now) = Clock::manual(START);
        let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::new(clock, limits));
        let scheduler = Self::scheduler(&broker);
        Self { broker, now, scheduler }
    }

    fn scheduler(broker: &Arc<dyn Broker>) -> Scheduler {
        Scheduler::new(broker.clone(), None, Rules::default(), None)
    }

    async fn deploy(&self, module: &[u8]) {
        self.deploy_for(&tenant(), module).await;
    }

    async fn deploy_for(&self, tenant: &TenantId, module: &[u8]) {
        let task = json!({"name": "report", "parameters": [{"name": "day", "schema": true, "default": 1}]});
        let document = TaskDocument::first(serde_json::from_value(task).unwrap(), Digest::of(module), 0);
        let put = PutDocument {
            tenant: tenant.clone(),
            kind: DocumentKind::Task,
            name: "report".into(),
            expect: Expect::Any,
            body: Some(serde_json::to_string(&document).unwrap()),
            held_bytes: 0,
        };
        assert!(matches!(self.broker.put_document(&put).await.unwrap(), DocumentPut::Stored(_)));
    }

    /// Makes a schedule of a report each minute, with these fields laid over.
    async fn set(&self, fields: Value) {
        self.set_named(&name(), fields).await;
    }

    async fn set_named(&self, name: &ScheduleName, fields: Value) {
        self.set_for(&tenant(), name, fields).await;
    }

    async fn set_for(&self, tenant: &TenantId, name: &ScheduleName, fields: Value) {
        let mut written = json!({"start": {"task": "report"}, "when": {"every": "60s"}});
        written.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let definition = Definition::parse(&written.to_string()).unwrap();
        let now = self.now.load(Ordering::SeqCst);
        let decision = created(&definition.times(tenant, name), &definition.policy, "k".into(), None, now);
        let (state, look_at) = (serde_json::to_string(&decision.state).unwrap(), decision.look_at);
        let change = ScheduleChange::Put { definition: Some(definition.to_text()), state, look_at };
        self.put_for(tenant, name, change).await;
    }

    async fn put(&self, name: &ScheduleName, change: ScheduleChange) {
        self.put_for(&tenant(), name, change).await;
    }

    async fn put_for(&self, tenant: &TenantId, name: &ScheduleName, change: ScheduleChange) {
        let revision = self.broker.schedule(tenant, name).await.unwrap().map_or(0, |record| record.revision);
        let (tenant, name) = (tenant.clone(), name.clone());
        let step = ScheduleStep { tenant, name, revision, not_before: 0, change, fires: Vec::new(), start: None };
        let done = self.broker.schedule_steps(&[step]).await.unwrap();
        assert!(matches!(done[..], [ScheduleStepped::Done { .. }]), "{done:?}");
    }

    /// Changes the state, and looks at it now.
    async fn change(&self, change: impl FnOnce(&mut FiringState)) {
        let mut state = self.state().await;
        change(&mut state);
        let (state, look_at) = (serde_json::to_string(&state).unwrap(), Some(self.now.load(Ordering::SeqCst)));
        self.put(&name(), ScheduleChange::Put { definition: None, state, look_at }).await;
    }

    /// The clock shows so much more than the start; what is due is fired.
    async fn at(&self, ms: u64) {
        self.now.store(START + ms, Ordering::SeqCst);
        self.steps().await;
    }

    async fn steps(&self) {
        for _ in 0..100 {
            if self.scheduler.step(&*self.broker).await.unwrap() > Duration::ZERO {
                return;
            }
        }
        panic!("it spins: {:?}", self.record().await);
    }

    async fn record(&self) -> ScheduleRecord {
        self.broker.schedule(&tenant(), &name()).await.unwrap().unwrap()
    }

    async fn state(&self) -> FiringState {
        serde_json::from_str(&self.record().await.state).unwrap()
    }

    /// The jobs, oldest first.
    async fn jobs(&self) -> Vec<JobRecord> {
        jobs_of(&*self.broker).await
    }

    /// The nominal times of the jobs, minutes since the start.
    async fn fired(&self) -> Vec<u64> {
        let minute = |job: &JobRecord| {
            let stamp = job.parsed_spec().unwrap().stamps.schedule.unwrap();
            (stamp.nominal_at - START) / MINUTE
        };
        self.jobs().await.iter().map(minute).collect()
    }

    /// The history, oldest first.
    async fn fires(&self) -> Vec<FireRecord> {
        let fires = self.broker.fires(&tenant(), &name(), None, 100).await.unwrap();
        fires.iter().rev().map(|fire| serde_json::from_str(&fire.text).unwrap()).collect()
    }

    async fn verdicts(&self) -> Vec<Verdict> {
        self.fires().await.iter().map(|record| record.verdict).collect()
    }

    /// A worker takes the oldest job and ends it.
    async fn end(&self, well: bool) -> JobId {
        let claim = Claim {
            worker: WorkerId::new("w").unwrap(),
            queues: vec![QueueName::default()].into(),
            max: 1,
            lease_ms: 100_000,
            token_seed: Token::new(format!("s{}", self.now.fetch_add(1, Ordering::SeqCst))).unwrap(),
            limited: LimitedTenants::default(),
            in_row: 1,
        };
        let delivery = self.broker.claim(&claim).await.unwrap().pop().unwrap();
        let resolution = match well {
            true => Resolution::Succeed { result: None },
            false => Resolution::Fail { failure: Failure::new("Void", "no") },
        };
        let settle = Settle {
            tenant: tenant(),
            id: delivery.id,
            token: delivery.token,
            resolution,
            record: None,
            progress: None,
            logs: Vec::new(),
            growth: None,
            blobs: None,
        };
        self.broker.settle(&[settle], None).await.unwrap();
        delivery.id
    }
}

/// The jobs, oldest first.
async fn jobs_of(broker: &dyn Broker) -> Vec<JobRecord> {
    let query = JobQuery {
        tenant: tenant(),
        dead: false,
        state: None,
        task: None,
        queue: None,
        worker: None,
        labels: Vec::new(),
        before: None,
        max: 500,
    };
    let mut jobs = broker.jobs(&query).await.unwrap().jobs;
    jobs.sort_by_key(|job| job.id);
    jobs
}

#[tokio::test]
async fn a_due_schedule_starts_its_job_once_with_its_stamps_and_records_it() {
    let world = World::new().await;
    world.set(json!({"start": {"task": "report", "args": [7], "options": {"tags": ["red"], "priority": 9}}})).await;
    world.at(MINUTE - 1).await;
    assert!(world.jobs().await.is_empty());
    world.at(MINUTE + 40).await;
    world.at(MINUTE + 41).await;
    let jobs = world.jobs().await;
    let [job] = &jobs[..] else { panic!("{jobs:?}") };
    let spec = job.parsed_spec().unwrap();
    assert_eq!((job.priority, spec.arguments.get(), spec.digest), (9, r#"{"day":7}"#, Digest::of(b"first")));
    assert_eq!((&spec.stamps.tags[..], &*spec.stamps.headers["schedule"]), (&["red".to_owned()][..], "nightly"));
    let stamp = spec.stamps.schedule.unwrap();
    assert_eq!((stamp.name, stamp.nominal_at, stamp.fired_at), (name(), START + MINUTE, START + MINUTE + 40));
    let fires = world.fires().await;
    assert_eq!((fires.len(), fires[0].verdict, fires[0].job), (1, Verdict::Started, Some(job.id)));
    assert_eq!(fires[0].nominal_at, Some(START + MINUTE));
    let record = world.record().await;
    assert_eq!((record.look_at, record.version), (Some(START + 2 * MINUTE), 1));
}

#[tokio::test]
async fn of_processes_that_read_the_same_due_schedule_one_starts_each_time() {
    let world = World::new().await;
    world.set(json!({"catch_up": "all", "overlap": "allow"})).await;
    let others: Vec<Scheduler> = (0..3).map(|_| World::scheduler(&world.broker)).collect();
    for minute in 1..=5 {
        world.now.store(START + 2 * minute * MINUTE, Ordering::SeqCst);
        let due = world.broker.due_schedules(PIECE as u32).await.unwrap();
        for other in &others {
            other.fire(&*world.broker, due.clone()).await.unwrap();
        }
    }
    assert_eq!(world.fired().await, (1..=10).collect::<Vec<_>>());
    assert_eq!(world.fires().await.len(), 10);
}

#[tokio::test]
async fn times_that_passed_are_caught_up_as_the_schedule_says() {
    for (catch_up, fired) in [("none", vec![]), ("latest", vec![120]), ("all", (1..=120).collect())] {
        let world = World::new().await;
        world.set(json!({"catch_up": catch_up, "overlap": "allow"})).await;
        world.at(120 * MINUTE + 30_000).await;
        assert_eq!(world.fired().await, fired, "{catch_up}");
    }
}

#[tokio::test]
async fn a_time_that_comes_while_a_run_is_not_over_is_treated_as_the_schedule_says() {
    let after_two = async |overlap: &str| {
        let world = World::new().await;
        world.set(json!({"overlap": overlap})).await;
        world.at(MINUTE).await;
        world.at(2 * MINUTE).await;
        world
    };
    let skip = after_two("skip").await;
    assert_eq!((skip.fired().await, skip.verdicts().await), (vec![1], vec![Verdict::Started, Verdict::Skipped]));
    skip.end(true).await;
    skip.at(3 * MINUTE).await;
    assert_eq!(skip.fired().await, [1, 3]);
    let buffer = after_two("buffer_one").await;
    assert_eq!(buffer.state().await.waiting, [START + 2 * MINUTE]);
    buffer.end(true).await;
    buffer.at(2 * MINUTE + 20_000).await;
    assert_eq!(buffer.fired().await, [1, 2]);
    let cancel = after_two("cancel").await;
    cancel.at(2 * MINUTE + 20_000).await;
    let states: Vec<JobState> = cancel.jobs().await.iter().map(|job| job.state).collect();
    assert_eq!((states, cancel.fired().await), (vec![JobState::Revoked, JobState::Queued], vec![1, 2]));
    assert_eq!(after_two("allow").await.fired().await, [1, 2]);
}

#[tokio::test]
async fn a_missing_task_is_recorded_and_tried_again_until_it_is_deployed() {
    let world = World::with(Limits::default());
    world.set(json!({})).await;
    world.at(MINUTE).await;
    let retry = world.state().await.retry.unwrap();
    assert!(retry.error.contains("no task `report`"), "{}", retry.error);
    assert_eq!((retry.tries, world.verdicts().await), (1, vec![Verdict::Retrying]));
    world.at(MINUTE + 1_000).await;
    world.deploy(b"late").await;
    world.at(MINUTE + 10_000).await;
    assert_eq!((world.fired().await, world.state().await.retry), (vec![1], None));
    assert_eq!(world.verdicts().await, [Verdict::Retrying, Verdict::Started]);
    assert_eq!(world.jobs().await[0].parsed_spec().unwrap().digest, Digest::of(b"late"));
}

#[tokio::test]
async fn what_the_broker_refuses_is_tried_again_and_given_up_when_a_newer_time_is_due() {
    let world = World::with(Limits { max_backlog: 1, ..Limits::default() });
    world.deploy(b"first").await;
    world.set(json!({"overlap": "allow"})).await;
    world.at(MINUTE).await;
    world.at(2 * MINUTE).await;
    assert_eq!(world.state().await.retry.unwrap().error, "its queue is full");
    world.at(3 * MINUTE).await;
    let fires = world.fires().await;
    let failed = fires.iter().find(|record| record.verdict == Verdict::Failed).unwrap();
    assert_eq!(failed.nominal_at, Some(START + 2 * MINUTE));
    assert!(failed.reason.as_ref().unwrap().contains("its queue is full"));
    world.end(true).await;
    world.at(3 * MINUTE + 5_000).await;
    assert_eq!(world.fired().await, [1, 3]);
}

#[tokio::test]
async fn a_canvas_is_started_as_a_workflow_and_followed() {
    let world = World::new().await;
    let canvas = json!({"chain": [{"task": "report"}, {"task": "report", "immutable": true}]});
    world.set(json!({"start": {"canvas": canvas, "name": "both"}})).await;
    world.at(MINUTE).await;
    world.at(2 * MINUTE).await;
    let query = WorkflowQuery { tenant: tenant(), state: None, before: None, max: 10 };
    let workflows = world.broker.workflows(&query).await.unwrap().workflows;
    assert_eq!((workflows.len(), workflows[0].nodes), (1, 2));
    let fires = world.fires().await;
    assert_eq!(fires.iter().map(|record| record.workflow).collect::<Vec<_>>(), [Some(workflows[0].id), None]);
    assert_eq!(fires[1].verdict, Verdict::Skipped);
    world.end(true).await;
    world.end(true).await;
    world.at(3 * MINUTE).await;
    assert_eq!(world.broker.workflows(&query).await.unwrap().workflows.len(), 2);
}

#[tokio::test]
async fn runs_that_fail_in_a_row_pause_the_schedule() {
    let world = World::new().await;
    world.set(json!({"pause_after_failures": 2})).await;
    for minute in 1..=2 {
        world.at(minute * MINUTE).await;
        world.end(false).await;
    }
    world.at(3 * MINUTE).await;
    let pause = world.state().await.paused.unwrap();
    assert_eq!((pause.since, pause.reason.as_deref()), (START + 3 * MINUTE, Some("2 runs in a row failed")));
    assert_eq!((world.record().await.look_at, world.fired().await), (None, vec![1, 2]));
}

#[tokio::test]
async fn a_paused_schedule_is_left_alone_and_a_backfill_starts_its_times_by_its_pace() {
    let world = World::new().await;
    world.set(json!({"overlap": "allow"})).await;
    world.change(|state| state.paused = Some(Pause { since: START, reason: None })).await;
    world.at(MINUTE).await;
    assert_eq!((world.fired().await, world.record().await.look_at), (vec![], None));
    world.at(10 * MINUTE).await;
    let at = START + 10 * MINUTE;
    world
        .change(|state| {
            let (next, to) = (START + MINUTE, START + 3 * MINUTE);
            state.backfills.push(Backfill { id: "b".into(), next, to, pace_ms: 1_000, at, started: 0, tries: 0 });
            (state.paused, state.next) = (None, Some(START + 11 * MINUTE));
        })
        .await;
    world.steps().await;
    assert_eq!(world.fired().await, [1]);
    world.at(10 * MINUTE + 1_000).await;
    world.at(10 * MINUTE + 2_000).await;
    assert_eq!((world.fired().await, world.state().await.backfills), (vec![1, 2, 3], vec![]));
    assert!(world.fires().await.iter().all(|record| record.backfill.as_deref() == Some("b")));
}

#[tokio::test]
async fn runs_of_a_backfill_do_not_hold_up_those_that_come() {
    let world = World::new().await;
    world.set(json!({})).await;
    world
        .change(|state| {
            let (next, to) = (START + MINUTE, START + 2 * MINUTE);
            let backfill = Backfill { id: "b".into(), next, to, pace_ms: 1_000, at: START, started: 0, tries: 0 };
            (state.backfills, state.next) = (vec![backfill], Some(START + 5 * MINUTE));
        })
        .await;
    world.steps().await;
    world.at(1_000).await;
    assert_eq!((world.fired().await, world.state().await.runs), (vec![1, 2], vec![]));
    world.at(5 * MINUTE).await;
    assert_eq!((world.fired().await, world.state().await.runs.len()), (vec![1, 2, 5], 1));
}

#[tokio::test]
async fn how_runs_end_is_looked_at_before_they_are_forgotten_where_failures_count() {
    let world = World::new().await;
    world.set(json!({"pause_after_failures": 1, "when": {"every": "1h"}})).await;
    world.at(60 * MINUTE).await;
    let started = world.record().await;
    assert_eq!(started.look_at, Some(START + 70 * MINUTE));
    // Nothing is new: only the look moves on.
    world.at(70 * MINUTE).await;
    let looked = world.record().await;
    assert_eq!((looked.look_at, looked.fires), (Some(START + 80 * MINUTE), started.fires));
    assert_eq!(looked.state, started.state);
    world.end(false).await;
    world.at(80 * MINUTE).await;
    let pause = world.state().await.paused.unwrap();
    assert_eq!((pause.since, pause.reason.as_deref()), (START + 80 * MINUTE, Some("1 runs in a row failed")));
}

#[tokio::test]
async fn a_damaged_schedule_is_paused_with_the_reason_and_stops_nobody() {
    let world = World::new().await;
    let damaged = [
        ("definition", Some("{"), "{}"),
        ("unknown", Some(r#"{"v":1,"start":{"task":"report"},"when":{"every":"60s"},"nonsense":1}"#), "{}"),
        ("state", None, "nonsense"),
        ("bounds", None, r#"{"key":"own","started":7,"waiting":[2,1]}"#),
    ];
    let whole = Definition::parse(r#"{"start":{"task":"report"},"when":{"every":"60s"}}"#).unwrap().to_text();
    for (name, definition, state) in damaged {
        let definition = Some(definition.map_or_else(|| whole.clone(), str::to_owned));
        let change = ScheduleChange::Put { definition, state: state.to_owned(), look_at: Some(START) };
        world.put(&ScheduleName::new(name).unwrap(), change).await;
    }
    world.set(json!({})).await;
    world.at(MINUTE).await;
    assert_eq!(world.fired().await, [1]);
    for (name, ..) in damaged {
        let record = world.broker.schedule(&tenant(), &ScheduleName::new(name).unwrap()).await.unwrap().unwrap();
        let state: FiringState = serde_json::from_str(&record.state).unwrap();
        let reason = state.paused.clone().unwrap().reason.unwrap();
        let remedy = if matches!(name, "state" | "bounds") { "resume it" } else { "set it again" };
        assert!(reason.starts_with(&format!("it is damaged, {remedy}: ")), "{name}: {reason}");
        assert_eq!(record.look_at, None, "{name}");
        // Ids of its runs and their number go on where they can be read.
        assert_eq!((state.key == "own", state.started == 7), (name == "bounds", name == "bounds"), "{name}");
        assert!(!state.key.is_empty(), "{name}");
    }
}

#[tokio::test]
async fn what_a_newer_release_stored_is_left_to_it() {
    let world = World::new().await;
    let definition = Some(r#"{"v":200,"start":{"task":"report"},"when":{"moon":"full"}}"#.to_owned());
    let newer = ScheduleName::new("newer").unwrap();
    world.put(&newer, ScheduleChange::Put { definition, state: "{}".into(), look_at: Some(START) }).await;
    world.set(json!({})).await;
    // A newer process may fire it in time.
    world.at(ON_TIME_MS).await;
    assert_eq!(world.broker.schedule(&tenant(), &newer).await.unwrap().unwrap().look_at, Some(START));
    world.at(MINUTE).await;
    let record = world.broker.schedule(&tenant(), &newer).await.unwrap().unwrap();
    assert_eq!((record.look_at, record.state.as_str()), (Some(START + 2 * MINUTE), "{}"));
    assert_eq!((world.fired().await, record.fires), (vec![1], 0));
}

#[tokio::test]
async fn a_pinned_module_that_is_gone_is_a_recorded_failure() {
    let world = World::new().await;
    world.set(json!({"digest": Digest::of(b"gone").to_string()})).await;
    world.at(MINUTE).await;
    let error = world.state().await.retry.unwrap().error;
    assert!(error.contains("there is no module sha256:"), "{error}");
}

#[tokio::test]
async fn many_that_are_due_at_once_are_fired_in_pieces_and_a_backlog_waits_behind_the_others() {
    let world = World::new().await;
    for number in 0..250 {
        world.set_named(&ScheduleName::new(format!("s{number}")).unwrap(), json!({})).await;
    }
    world.set(json!({"catch_up": "all", "overlap": "allow"})).await;
    world.at(70 * MINUTE).await;
    let jobs = world.jobs().await;
    let of_backlog = |job: &&JobRecord| job.parsed_spec().unwrap().stamps.headers["schedule"] == "nightly";
    assert_eq!((jobs.iter().filter(of_backlog).count(), jobs.len()), (70, 320));
}

#[tokio::test(start_paused = true)]
async fn a_hint_ends_the_pause_and_without_one_it_is_bounded() {
    let world = World::new().await;
    assert_eq!(world.scheduler.step(&*world.broker).await.unwrap(), MAX_PAUSE);
    world.set(json!({})).await;
    world.scheduler.woken(&*world.broker).await;
    assert_eq!(world.scheduler.step(&*world.broker).await.unwrap(), MAX_PAUSE);
    world.now.store(START + MINUTE - 300, Ordering::SeqCst);
    assert_eq!(world.scheduler.step(&*world.broker).await.unwrap(), Duration::from_millis(300));
}

#[tokio::test]
async fn workflows_do_not_hold_up_what_is_due_behind_them() {
    let world = World::new().await;
    for number in 0..120 {
        let canvas = json!({"start": {"canvas": {"task": "report"}}, "when": {"every": "30s"}});
        world.set_named(&ScheduleName::new(format!("flow{number}")).unwrap(), canvas).await;
    }
    world.set(json!({})).await;
    world.now.store(START + MINUTE, Ordering::SeqCst);
    // The first look meets workflows only, and moves those that it leaves behind the others.
    world.scheduler.step(&*world.broker).await.unwrap();
    world.scheduler.step(&*world.broker).await.unwrap();
    assert_eq!(world.jobs().await.len(), 1);
    world.at(MINUTE + WORKFLOW_LATER_MS).await;
    let query = WorkflowQuery { tenant: tenant(), state: None, before: None, max: 500 };
    assert_eq!(world.broker.workflows(&query).await.unwrap().workflows.len(), 120);
}
