//! Schedules: steps by compare-and-set, what they start, when somebody looks, and the history.

use umbel_model::ScheduleName;

use super::{flows::*, *};

pub(super) fn schedule_name(name: &str) -> ScheduleName {
    ScheduleName::new(name).unwrap()
}

/// A step of a schedule of tenant `t1` that was decided by a revision.
pub(super) fn step(name: &str, revision: u64, change: ScheduleChange) -> ScheduleStep {
    let (tenant, name) = (tenant("t1"), schedule_name(name));
    ScheduleStep { tenant, name, revision, not_before: 0, change, fires: Vec::new(), start: None }
}

fn put(definition: Option<&str>, state: &str, look_at: Option<UnixMs>) -> ScheduleChange {
    ScheduleChange::Put { definition: definition.map(str::to_owned), state: state.to_owned(), look_at }
}

/// The step that makes a schedule.
fn make(name: &str, look_at: Option<UnixMs>) -> ScheduleStep {
    step(name, 0, put(Some("{\"cron\":\"é \\\"0 3\\\"\"}"), "s0", look_at))
}

fn starts(step: ScheduleStep, job: NewJob) -> ScheduleStep {
    ScheduleStep { start: Some(NewRun::Job(Box::new(job))), ..step }
}

fn texts(numbers: std::ops::Range<u64>) -> Vec<String> {
    numbers.map(|n| format!("fire {n}")).collect()
}

impl Subject {
    async fn step(&self, step: ScheduleStep) -> ScheduleStepped {
        self.broker.schedule_steps(&[step]).await.unwrap()[0]
    }

    /// Does a step that nothing keeps from being done; its revision.
    async fn done(&self, step: ScheduleStep) -> u64 {
        match self.step(step).await {
            ScheduleStepped::Done { revision, .. } => revision,
            other => panic!("{other:?}"),
        }
    }

    async fn schedule(&self, name: &str) -> Option<ScheduleRecord> {
        self.broker.schedule(&tenant("t1"), &schedule_name(name)).await.unwrap()
    }

    async fn history(&self, name: &str) -> Vec<u64> {
        let fires = self.broker.fires(&tenant("t1"), &schedule_name(name), None, u32::MAX).await.unwrap();
        assert!(fires.iter().all(|fire| fire.text == format!("fire {}", fire.number)), "{fires:?}");
        fires.into_iter().map(|fire| fire.number).collect()
    }

    /// The names of those that are due, and when the next look is.
    async fn due(&self, max: u32) -> (Vec<String>, Option<UnixMs>) {
        let due = self.broker.due_schedules(max).await.unwrap();
        assert_eq!(due.now, self.now.load(Ordering::SeqCst));
        let name = |record: ScheduleRecord| format!("{} {}", record.tenant, record.name);
        (due.schedules.into_iter().map(name).collect(), due.next_look)
    }

    async fn document_bytes(&self) -> u64 {
        self.broker.stored_bytes(&tenant("t1")).await.unwrap().documents
    }
}

pub async fn a_schedule_is_read_as_it_was_stored(s: Subject) {
    assert_eq!(s.schedule("a").await, None);
    let definition = "{\"cron\":\"é \\\"0 3\\\"\"}\r\n\u{1}";
    let first = s.step(step("a", 0, put(Some(definition), "", Some(START_MS + 5)))).await;
    let ScheduleStepped::Done { version: 1, revision } = first else { panic!("{first:?}") };
    let stored = ScheduleRecord {
        tenant: tenant("t1"),
        name: schedule_name("a"),
        version: 1,
        revision,
        definition: definition.into(),
        state: String::new(),
        look_at: Some(START_MS + 5),
        created_at: START_MS,
        changed_at: START_MS,
        fires: 0,
    };
    assert_eq!(s.schedule("a").await, Some(stored.clone()));
    assert_eq!(s.broker.schedule(&tenant("t2"), &schedule_name("a")).await.unwrap(), None);
    s.pass(10);
    let second = s.done(step("a", revision, put(None, "s1", None))).await;
    let stored = ScheduleRecord { revision: second, state: "s1".into(), look_at: None, ..stored };
    assert_eq!(s.schedule("a").await, Some(stored.clone()), "the definition is as it was");
    let third = s.step(step("a", second, put(Some("d"), "s1", Some(u64::MAX)))).await;
    let ScheduleStepped::Done { version: 2, revision } = third else { panic!("{third:?}") };
    let (changed_at, look_at) = (START_MS + 10, Some(MAX_LOOK_AT));
    let stored = ScheduleRecord { version: 2, revision, definition: "d".into(), changed_at, look_at, ..stored };
    assert_eq!(s.schedule("a").await, Some(stored));
}

pub async fn a_step_is_done_only_at_the_revision_by_which_it_was_decided(s: Subject) {
    let stale = |revision| ScheduleStepped::Stale { revision };
    assert_eq!(s.step(step("a", 3, put(Some("d"), "s", None))).await, stale(0));
    for change in [put(None, "s", None), ScheduleChange::Delete] {
        assert_eq!(s.step(step("a", 0, change)).await, stale(0), "there is nothing to leave or to delete");
    }
    let first = s.done(make("a", Some(START_MS))).await;
    assert_eq!(s.step(make("a", None)).await, stale(first));
    let second = s.done(step("a", first, put(None, "s1", None))).await;
    assert!(second > first);
    let before = s.schedule("a").await;
    for change in [put(Some("x"), "x", Some(1)), ScheduleChange::Delete] {
        let late = ScheduleStep { fires: texts(1..2), ..step("a", first, change) };
        assert_eq!(s.step(starts(late, new_job(1))).await, stale(second));
    }
    assert_eq!((s.schedule("a").await, s.history("a").await), (before, Vec::new()));
    assert!(s.claim(5).await.is_empty());
    assert_eq!(s.due(5).await, (Vec::new(), None));
}

pub async fn a_revision_only_rises_also_when_a_schedule_was_deleted(s: Subject) {
    let mut last = 0;
    for _ in 0..3 {
        for name in ["a", "b"] {
            let made = s.done(ScheduleStep { fires: texts(1..3), ..make(name, Some(START_MS)) }).await;
            assert!(made > last);
            last = s.done(step(name, made, ScheduleChange::Delete)).await;
            assert!(last > made);
            assert_eq!((s.schedule(name).await, s.history(name).await), (None, Vec::new()));
            let again = s.step(step(name, made, ScheduleChange::Delete)).await;
            assert_eq!(again, ScheduleStepped::Stale { revision: 0 });
        }
    }
    assert_eq!(s.due(5).await, (Vec::new(), None));
    assert_eq!(s.document_bytes().await, 0);
}

pub async fn a_step_that_comes_too_early_is_not_done(s: Subject) {
    let revision = s.done(make("a", None)).await;
    let at = |not_before| ScheduleStep { not_before, ..step("a", revision, put(None, "s1", None)) };
    let early = starts(at(START_MS + 10), new_job(1));
    assert_eq!(s.step(early.clone()).await, ScheduleStepped::TooEarly { now: START_MS });
    assert!(s.claim(5).await.is_empty());
    s.pass(10);
    s.done(early).await;
    assert_eq!(s.claim_numbers(5).await, [1]);
}

pub async fn a_fire_starts_its_job_in_the_same_step(s: Subject) {
    let revision = s.done(make("a", Some(START_MS))).await;
    let job = labelled(new_job(7), &["nightly"], &[]);
    let fire = ScheduleStep { fires: texts(1..2), ..step("a", revision, put(None, "s1", Some(START_MS + 1_000))) };
    let mut work = s.broker.signals(Topic::Work).await.unwrap();
    let second = s.done(starts(fire.clone(), job.clone())).await;
    assert_eq!(work.recv().await.unwrap(), Signal::Work([queue_name("default")].into()));
    assert_eq!(s.read(job.id).await.spec, job.spec);
    let listed = JobQuery { labels: job.labels.clone(), ..all_jobs(&tenant("t1"), false) };
    assert_eq!(s.broker.jobs(&listed).await.unwrap().jobs.len(), 1);
    // The reply was lost, and it is made again.
    assert_eq!(s.step(starts(fire, job)).await, ScheduleStepped::Stale { revision: second });
    assert_eq!(s.claim_numbers(5).await, [7]);
    assert_eq!((s.history("a").await, s.schedule("a").await.unwrap().fires), (vec![1], 1));
    assert_eq!(s.due(5).await, (Vec::new(), Some(START_MS + 1_000)));
}

pub async fn a_job_of_the_very_same_id_counts_as_started(s: Subject) {
    let revision = s.done(make("a", Some(START_MS))).await;
    s.done(starts(step("a", revision, ScheduleChange::Delete), new_job(1))).await;
    let again = s.done(make("a", Some(START_MS))).await;
    let fire = ScheduleStep { fires: texts(1..2), ..step("a", again, put(None, "s1", None)) };
    s.done(starts(fire, new_job(1))).await;
    assert_eq!(s.claim_numbers(5).await, [1]);
    assert_eq!(s.history("a").await, [1]);
    // One that another submission made by the same key is another job.
    let keyed = |n| NewJob { idempotency: Some(idempotency("k", "b")), ..new_job(n) };
    s.add(keyed(2)).await;
    let last = s.schedule("a").await.unwrap().revision;
    let answer = s.step(starts(step("a", last, put(None, "s2", None)), keyed(3))).await;
    assert_eq!(answer, ScheduleStepped::NotStarted(Submitted::Existing(job_id(2))));
}

fn idempotency(key: &str, body: &str) -> Idempotency {
    Idempotency { key: key.into(), body: body.into(), ttl_ms: IDEMPOTENCY_TTL_MS }
}

pub async fn a_step_whose_job_is_refused_changes_nothing(s: Subject) {
    let revision = s.done(make("a", Some(START_MS))).await;
    s.add(NewJob { idempotency: Some(idempotency("k", "b")), ..new_job(1) }).await;
    let unique = Unique { key: "u".into(), wins: Wins::First, for_ms: 0, max_wait_ms: 0 };
    let unique = |n| {
        let options = BrokerOptions { unique: Some(unique.clone()), ..BrokerOptions::default() };
        NewJob { broker_options: Some(Box::new(options)), ..new_job(n) }
    };
    s.add(unique(2)).await;
    for n in 0..3 {
        s.add(NewJob { queue: queue_name(&format!("q{n}")), ..new_job(10 + n) }).await;
    }
    let missing = blobs::blob_digest(1);
    let refused = [
        (NewJob { idempotency: Some(idempotency("k", "c")), ..new_job(3) }, Submitted::Conflict(job_id(1))),
        (unique(4), Submitted::Duplicate(job_id(2))),
        (NewJob { queue: queue_name("q9"), ..new_job(5) }, Submitted::TooManyQueues),
        (NewJob { redrive_of: Some(job_id(1)), ..new_job(6) }, Submitted::NotDead),
        (NewJob { blobs: vec![missing], ..new_job(7) }, Submitted::MissingBlob(missing)),
    ];
    let before = (s.schedule("a").await, s.broker.stored_bytes(&tenant("t1")).await.unwrap());
    for (job, answer) in refused {
        let id = job.id;
        let fire = ScheduleStep { fires: texts(1..2), ..step("a", revision, put(Some("d2"), "s1", None)) };
        assert_eq!(s.step(starts(fire, job)).await, ScheduleStepped::NotStarted(answer));
        assert_eq!(s.broker.job(&tenant("t1"), id).await.unwrap().map(|job| job.id), None, "{answer:?}");
    }
    assert_eq!((s.schedule("a").await, s.broker.stored_bytes(&tenant("t1")).await.unwrap()), before);
    assert_eq!((s.history("a").await, s.due(1).await.0), (Vec::new(), vec!["t1 a".to_owned()]));
}

pub async fn a_full_queue_or_storage_is_told_and_the_fire_may_be_tried_again(s: Subject) {
    let revision = s.done(make("a", Some(START_MS))).await;
    let jobs: Vec<NewJob> = (100..100 + limits().max_backlog).map(new_job).collect();
    s.broker.submit(&jobs).await.unwrap();
    let fire = || starts(step("a", revision, put(None, "s1", None)), new_job(1));
    assert_eq!(s.step(fire()).await, ScheduleStepped::NotStarted(Submitted::QueueFull));
    s.claim_one().await;
    let small = StorageLimits { jobs: 10, ..StorageLimits::default() };
    s.broker.set_storage_limits(&tenant("t1"), small).await.unwrap();
    assert_eq!(s.step(fire()).await, ScheduleStepped::NotStarted(Submitted::StorageFull));
    s.broker.set_storage_limits(&tenant("t1"), StorageLimits::default()).await.unwrap();
    s.done(fire()).await;
    assert_eq!(s.state(job_id(1)).await, JobState::Queued);
}

pub async fn a_fire_starts_a_staged_workflow_once(s: Subject) {
    let revision = s.done(make("a", Some(START_MS))).await;
    let flow = flow(1, r#"{"chain":[{"task":"a"},{"task":"b"}]}"#);
    let id = flow.head.id;
    let fire = || ScheduleStep {
        fires: texts(1..2),
        start: Some(NewRun::Workflow(id)),
        ..step("a", revision, put(None, "s1", Some(START_MS + 1_000)))
    };
    let unknown = ScheduleStepped::NotStartedWorkflow(WorkflowSubmitted::Unknown);
    assert_eq!(s.step(fire()).await, unknown);
    let head = WorkflowHead { idempotency: Some(idempotency("k", "b")), ..flow.head.clone() };
    s.broker.stage_workflow(&head).await.unwrap();
    s.broker.stage_nodes(&tenant("t1"), id, 0, &flow.nodes).await.unwrap();
    assert!(s.claim(1).await.is_empty());
    let done = s.done(fire()).await;
    assert_eq!(s.step(fire()).await, ScheduleStepped::Stale { revision: done });
    s.run_all(&["a", "b"]).await;
    assert_eq!(s.broker.workflow(&tenant("t1"), id).await.unwrap().unwrap().state, WorkflowState::Succeeded);
    assert_eq!(s.history("a").await, [1]);
    // It runs, or ran: it counts as started.
    let next = ScheduleStep { start: Some(NewRun::Workflow(id)), ..step("a", done, put(None, "s2", None)) };
    let last = s.done(next).await;
    // Another workflow took its key.
    let other = self::flow(2, r#"{"task":"a"}"#);
    let staged = WorkflowHead { idempotency: Some(idempotency("k2", "b")), ..other.head.clone() };
    s.broker.stage_workflow(&staged).await.unwrap();
    s.broker.stage_nodes(&tenant("t1"), other.head.id, 0, &other.nodes).await.unwrap();
    s.add(NewJob { idempotency: Some(idempotency("k2", "c")), ..new_job(9) }).await;
    let late = ScheduleStep { start: Some(NewRun::Workflow(other.head.id)), ..step("a", last, put(None, "s3", None)) };
    let conflict = ScheduleStepped::NotStartedWorkflow(WorkflowSubmitted::Conflict(job_id(9)));
    assert_eq!(s.step(late).await, conflict);
    assert_eq!(s.schedule("a").await.unwrap().state, "s2");
}

pub async fn steps_of_a_call_are_done_each_on_its_own_in_order(s: Subject) {
    let revision = s.done(make("a", None)).await;
    let flow = flow(1, r#"{"task":"a"}"#);
    s.broker.stage_workflow(&flow.head).await.unwrap();
    s.broker.stage_nodes(&tenant("t1"), flow.head.id, 0, &flow.nodes).await.unwrap();
    let of = |name: &str, revision, n| starts(step(name, revision, put(None, "s1", None)), new_job(n));
    let steps = [
        of("a", revision, 1),
        of("a", revision, 2),
        starts(make("b", None), new_job(3)),
        ScheduleStep { start: Some(NewRun::Workflow(flow.head.id)), ..make("c", None) },
        of("a", revision + 1, 4),
        make("d", None),
        step("b", revision + 2, ScheduleChange::Delete),
        starts(make("d", None), new_job(5)),
    ];
    let done = |version, ahead| ScheduleStepped::Done { version, revision: revision + ahead };
    let answers = s.broker.schedule_steps(&steps).await.unwrap();
    let expected = [
        done(1, 1),
        ScheduleStepped::Stale { revision: revision + 1 },
        done(1, 2),
        done(1, 3),
        done(1, 4),
        ScheduleStepped::TooMany(3),
        done(0, 5),
        done(1, 6),
    ];
    assert_eq!(answers, expected);
    let tasks: Vec<String> = s.claim(10).await.iter().map(task_of).collect();
    let plain = "a plain job";
    assert_eq!(tasks, [plain, plain, "a", plain, plain]);
    assert_eq!(s.broker.schedule_steps(&[]).await.unwrap(), []);
}

pub async fn so_many_steps_of_a_call_start_so_many_jobs(s: Subject) {
    let mut revision = s.done(make("a", None)).await;
    let mut steps = Vec::new();
    for n in 0..MAX_SCHEDULE_STEPS as u64 {
        let change = put(None, &"s".repeat(n as usize), Some(START_MS + n));
        let fire = ScheduleStep { fires: texts(n + 1..n + 2), ..step("a", revision, change) };
        // All kinds of jobs, by turns.
        let start = if n % 3 == 0 { Start::After(n) } else { Start::Now };
        let expires_ms = if n % 5 == 0 { 10_000 } else { 0 };
        steps.push(starts(fire, NewJob { start, expires_ms, ..new_job(n) }));
        revision += 1;
    }
    let answers = s.broker.schedule_steps(&steps).await.unwrap();
    assert!(answers.iter().all(|answer| matches!(answer, ScheduleStepped::Done { .. })), "{answers:?}");
    assert_eq!(s.schedule("a").await.unwrap().fires, 100);
    s.pass(200);
    s.promote().await;
    let mut numbers = s.claim_numbers(200).await;
    numbers.sort_unstable();
    assert_eq!(numbers, (0..100).collect::<Vec<_>>());
}

pub async fn schedules_are_looked_at_when_their_time_has_come(s: Subject) {
    assert_eq!(s.due(5).await, (Vec::new(), None));
    let at = |ms| Some(START_MS + ms);
    let mut other = make("a", at(20));
    other.tenant = tenant("t1-b");
    s.done(other).await;
    let revisions = [s.done(make("b", at(20))).await, s.done(make("a", at(20))).await, s.done(make("c", at(10))).await];
    assert_eq!(s.due(5).await, (Vec::new(), at(10)));
    s.pass(10);
    assert_eq!(s.due(5).await, (vec!["t1 c".to_owned()], at(20)));
    assert_eq!(s.due(0).await, (Vec::new(), at(10)));
    s.pass(9);
    assert_eq!(s.due(5).await.0, ["t1 c"]);
    s.pass(1);
    assert_eq!(s.due(5).await, (["t1 c", "t1 a", "t1 b", "t1-b a"].map(str::to_owned).to_vec(), None));
    assert_eq!(s.due(3).await, (["t1 c", "t1 a", "t1 b"].map(str::to_owned).to_vec(), at(20)));
    // Paused, moved, deleted.
    s.done(step("c", revisions[2], put(None, "s1", None))).await;
    s.done(step("a", revisions[1], put(None, "s1", at(1_000)))).await;
    s.done(step("b", revisions[0], ScheduleChange::Delete)).await;
    assert_eq!(s.due(5).await, (vec!["t1-b a".to_owned()], at(1_000)));
}

pub async fn due_schedules_and_pages_end_at_their_bytes(s: Subject) {
    let large = "x".repeat(MAX_SCHEDULE_BYTES);
    let each = MAX_SCHEDULE_BYTES + 5;
    let on_page = PAGE_BYTES.div_ceil(each);
    let tenants = (on_page + 2).div_ceil(limits().max_schedules as usize);
    for (number, of) in (0..tenants).flat_map(|of| (0..3).map(move |n| (n, of))) {
        let mut step = step(&format!("name{number}"), 0, put(Some(&large), "", Some(START_MS)));
        step.tenant = tenant(&format!("t{of}"));
        s.done(step).await;
    }
    let due = s.broker.due_schedules(1_000).await.unwrap();
    assert_eq!((due.schedules.len(), due.next_look), (on_page, Some(START_MS)));
    assert!(due.schedules.iter().all(|record| record.definition == large));
}

pub async fn schedules_are_listed_by_name(s: Subject) {
    for name in ["b", "ab", "a.c"] {
        s.done(make(name, None)).await;
    }
    let mut other = make("zz", None);
    other.tenant = tenant("t2");
    s.done(other).await;
    let list = async |prefix: &str, after: Option<&str>, max| {
        let (prefix, after) = (prefix.to_owned(), after.map(schedule_name));
        let page = s.broker.schedules(&ScheduleQuery { tenant: tenant("t1"), prefix, after, max }).await.unwrap();
        let names: Vec<String> = page.schedules.iter().map(|record| record.name.to_string()).collect();
        (names.join(" "), page.next.map(String::from))
    };
    let page = |names: &str, next: Option<&str>| (names.to_owned(), next.map(str::to_owned));
    assert_eq!(list("", None, 10).await, page("a.c ab b", None));
    assert_eq!(list("", None, 2).await, page("a.c ab", Some("ab")));
    assert_eq!(list("", Some("ab"), 2).await, page("b", None));
    assert_eq!(list("a", None, 1).await, page("a.c", Some("a.c")));
    assert_eq!(list("a", Some("a.c"), 0).await, page("ab", Some("ab")));
    assert_eq!(list("a", Some("ab"), 1).await, page("", None));
    assert_eq!(list("b", Some("a"), 10).await, page("b", None));
    assert_eq!(list("a", Some("b"), 10).await, page("", None));
    assert_eq!(list("c", None, 10).await, page("", None));
}

pub async fn the_newest_fires_of_a_schedule_are_kept(s: Subject) {
    let mut revision = s.done(make("a", None)).await;
    let all = MAX_FIRES as u64 + 21;
    for first in (1..=all).step_by(MAX_STEP_FIRES) {
        let fires = texts(first..(first + MAX_STEP_FIRES as u64).min(all + 1));
        revision = s.done(ScheduleStep { fires, ..step("a", revision, put(None, "s1", None)) }).await;
    }
    assert_eq!(s.schedule("a").await.unwrap().fires, all);
    assert_eq!(s.history("a").await, (22..=all).rev().collect::<Vec<_>>());
    let page = async |before, max| {
        let fires = s.broker.fires(&tenant("t1"), &schedule_name("a"), before, max).await.unwrap();
        fires.into_iter().map(|fire| fire.number).collect::<Vec<_>>()
    };
    assert_eq!(page(None, 2).await, [all, all - 1]);
    assert_eq!(page(Some(all - 1), 2).await, [all - 2, all - 3]);
    assert_eq!(page(Some(24), 10).await, [23, 22]);
    assert!(page(Some(22), 10).await.is_empty());
    assert!(page(Some(0), 10).await.is_empty());
    assert_eq!(page(Some(u64::MAX), 1).await, [all]);
    assert!(page(None, 0).await.is_empty());
    assert_eq!(s.broker.fires(&tenant("t2"), &schedule_name("a"), None, 10).await.unwrap(), []);
}

pub async fn too_long_texts_are_refused(s: Subject) {
    let refused = |part, max: usize| ScheduleStepped::TooLarge { part, max: max as u64 };
    let long = |bytes: usize| "é".repeat(bytes / 2 + 1);
    let of = |change| step("a", 0, change);
    let with = |fires| ScheduleStep { fires, ..make("a", None) };
    let (definition, state) = (MAX_SCHEDULE_BYTES, MAX_SCHEDULE_STATE_BYTES);
    let cases = [
        (of(put(Some(&long(definition)), "", None)), refused(SchedulePart::Definition, definition)),
        (of(put(Some(""), &long(state), None)), refused(SchedulePart::State, state)),
        (with(vec![String::new(); 17]), refused(SchedulePart::Fires, MAX_STEP_FIRES)),
        (with(vec![long(MAX_FIRE_BYTES)]), refused(SchedulePart::Fire, MAX_FIRE_BYTES)),
    ];
    for (step, answer) in cases {
        assert_eq!(s.step(starts(step, new_job(1))).await, answer);
    }
    let most = put(Some(&"x".repeat(definition)), &"x".repeat(state), None);
    s.done(ScheduleStep { fires: vec!["x".repeat(MAX_FIRE_BYTES); MAX_STEP_FIRES], ..step("a", 0, most) }).await;
    let stored = s.schedule("a").await.unwrap();
    assert_eq!((stored.definition.len(), stored.state.len(), stored.fires), (definition, state, 16));
}

pub async fn schedules_of_a_tenant_are_limited(s: Subject) {
    let most = limits().max_schedules;
    for n in 0..most {
        s.done(make(&format!("s{n}"), None)).await;
    }
    assert_eq!(s.step(starts(make("more", None), new_job(1))).await, ScheduleStepped::TooMany(most));
    let mut other = make("more", None);
    other.tenant = tenant("t2");
    s.done(other).await;
    let revision = s.schedule("s0").await.unwrap().revision;
    let revision = s.done(step("s0", revision, put(Some("d2"), "s", None))).await;
    s.done(step("s0", revision, ScheduleChange::Delete)).await;
    s.done(make("more", None)).await;
}

pub async fn texts_of_schedules_count_as_documents_do(s: Subject) {
    let revision = s.done(step("name", 0, put(Some("12345"), "123", None))).await;
    assert_eq!(s.document_bytes().await, 12);
    let document = PutDocument {
        tenant: tenant("t1"),
        kind: DocumentKind::Task,
        name: "doc".into(),
        expect: Expect::Any,
        body: Some("{}".into()),
        held_bytes: 0,
    };
    s.broker.put_document(&document).await.unwrap();
    assert_eq!(s.document_bytes().await, 12 + 7);
    let limit = StorageLimits { documents: 20, ..StorageLimits::default() };
    s.broker.set_storage_limits(&tenant("t1"), limit).await.unwrap();
    let full = ScheduleStepped::StorageFull;
    assert_eq!(s.step(step("b", 0, put(Some(""), "1", None))).await, full);
    let start = starts(step("name", revision, put(Some("1234567"), "123", None)), new_job(1));
    assert_eq!(s.step(start).await, full);
    assert!(s.claim(1).await.is_empty());
    let large = PutDocument { body: Some("{  }".into()), ..document.clone() };
    assert_eq!(s.broker.put_document(&large).await.unwrap(), DocumentPut::StorageFull);
    // It fires all the same: a state may always grow.
    let revision = s.done(step("name", revision, put(None, "12345", None))).await;
    assert_eq!(s.document_bytes().await, 14 + 7);
    let revision = s.done(step("name", revision, put(Some("12"), "12345", None))).await;
    assert_eq!(s.document_bytes().await, 11 + 7);
    s.done(step("b", 0, put(Some(""), "1", None))).await;
    s.done(step("name", revision, ScheduleChange::Delete)).await;
    assert_eq!(s.document_bytes().await, 2 + 7);
}

pub async fn an_earlier_look_is_hinted_at(s: Subject) {
    let mut hints = s.broker.signals(Topic::Schedules).await.unwrap();
    let revision = s.done(make("a", Some(START_MS + 100))).await;
    assert_eq!(hints.recv().await.unwrap(), Signal::Schedules);
    // Later ones, and a fire that moves the earliest one on, tell nobody.
    s.done(make("b", Some(START_MS + 100))).await;
    let revision = s.done(step("a", revision, put(None, "s1", Some(START_MS + 200)))).await;
    let revision = s.done(step("a", revision, put(None, "s1", None))).await;
    let mut done = s.broker.signals(Topic::Done).await.unwrap();
    s.add(new_job(1)).await;
    let held = s.claim_one().await;
    s.settle(&held, succeed("1")).await;
    done.recv().await.unwrap();
    assert!(hints.try_recv().is_err(), "no hint was given before that of a later step");
    s.done(step("a", revision, put(None, "s1", Some(START_MS + 99)))).await;
    assert_eq!(hints.recv().await.unwrap(), Signal::Schedules);
}

/// Names of schedules that fire each millisecond.
const EACH_MS: [&str; 3] = ["s0", "s1", "s2"];

/// Makes schedules that fire each millisecond, from the next one on.
pub async fn fire_each_millisecond(broker: &dyn Broker) {
    let steps = EACH_MS.map(|name| make(name, Some(START_MS + 1)));
    broker.schedule_steps(&steps).await.unwrap();
}

/// What a server decides of those schedules: the next time fires, and then the one behind it until `until`.
fn decided(record: ScheduleRecord, until: UnixMs) -> ScheduleStep {
    let nominal = record.look_at.expect("it is due");
    let next = (nominal < until).then_some(nominal + 1);
    let of = EACH_MS.iter().position(|name| *name == record.name.as_str()).expect("it is one of them") as u64;
    let change = put(None, &nominal.to_string(), next);
    let fires = vec![format!("fire {}", record.fires + 1)];
    let step = step(record.name.as_str(), record.revision, change);
    starts(ScheduleStep { not_before: nominal, fires, ..step }, new_job(of * 1_000 + nominal - START_MS))
}

/// Fires those schedules as one of many servers does, until they have fired at `until`: reads what is due, decides, and asks for the
/// steps, some of them twice. Waits while the broker cannot be reached.
pub async fn fire_what_is_due(broker: Arc<dyn Broker>, seed: u64, until: UnixMs) {
    let mut draw = seed;
    loop {
        let due = match broker.due_schedules(7).await {
            Err(error) if error.is_transient() => DueSchedules { next_look: Some(0), ..DueSchedules::default() },
            due => due.unwrap(),
        };
        if due.schedules.is_empty() {
            if due.next_look.is_none() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        let steps: Vec<ScheduleStep> = due.schedules.into_iter().map(|record| decided(record, until)).collect();
        for _ in 0..1 + draw % 2 {
            match broker.schedule_steps(&steps).await {
                Err(error) if error.is_transient() => {}
                stepped => drop(stepped.unwrap()),
            }
        }
        draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(seed) >> 1;
        tokio::task::yield_now().await;
    }
}

/// Each time until `until` has started exactly one job, and is in the history.
pub async fn assert_each_time_fired_once(broker: &dyn Broker, until: UnixMs) {
    let times = until - START_MS;
    let mut claimed = numbers(&broker.claim(&claim_of("w1", &["default"], 1_000)).await.unwrap());
    claimed.sort_unstable();
    let all = (0..3).flat_map(|of| (1..=times).map(move |time| of * 1_000 + time));
    assert_eq!(claimed, all.collect::<Vec<_>>());
    for name in EACH_MS {
        let fires = broker.fires(&tenant("t1"), &schedule_name(name), None, u32::MAX).await.unwrap();
        let kept: Vec<u64> = fires.into_iter().map(|fire| fire.number).collect();
        assert_eq!(kept, (1..=times).rev().take(MAX_FIRES).collect::<Vec<_>>());
    }
}

pub async fn schedules_that_many_fire_at_once_fire_each_time_once(s: Subject) {
    let until = START_MS + 40;
    fire_each_millisecond(&*s.broker).await;
    s.pass(40);
    let servers = (1..=4).map(|seed| tokio::spawn(fire_what_is_due(s.broker.clone(), seed, until)));
    for server in servers.collect::<Vec<_>>() {
        server.await.unwrap();
    }
    assert_each_time_fired_once(&*s.broker, until).await;
}
