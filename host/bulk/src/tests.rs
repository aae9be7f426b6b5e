//! Actions that are interrupted, raced and stopped, over the broker's model.

use std::sync::Arc;

use serde_json::value::RawValue;
use umbel_broker::{
    Claim, DEFAULT_LEASE_MS, Deliveries, Expect, Growth, Jobs, Label, LimitedTenants, Maintenance, NewJob, NewNode,
    NewWork, NewWorkflow, NodeTemplate, PutDocument, Registry, Settle, Settled, Start, Submitted, WorkflowHead,
};
use umbel_broker_conformance::MemoryBroker;
use umbel_compose::ModuleDocument;
use umbel_model::{
    Digest, Failure, JobId, JobSpec, JobState, ModuleInfo, OnFailure, PolicyBounds, PolicyPatch, QueueName, Resolution,
    Stamps, TaskName, TenantId, Token, WorkerId,
    canvas::{Range, When, workflow_id},
};

use crate::{
    Aborted, Action, Advanced, Bulk, Carrier, Filter, MAX_KEPT, MAX_RUNNING, Started, State, abort, advance, list,
    load, running, start, start_claims,
    store::{put, read},
};

/// A time that is later than any turn.
const LATER: u64 = 1_000_000;

struct World {
    broker: Arc<MemoryBroker>,
    tenant: TenantId,
    bounds: PolicyBounds,
}

fn spec(tags: &[&str]) -> String {
    let spec = JobSpec {
        body: None,
        v: 1,
        task: TaskName::new("t").unwrap(),
        digest: Digest::of(b"m"),
        arguments: RawValue::from_string(r#"{"x":{"a":1}}"#.into()).unwrap(),
        policy: PolicyPatch { limit_key: Some("args[0].a".into()), key_concurrency: Some(2), ..PolicyPatch::default() },
        stamps: Stamps {
            tags: tags.iter().map(ToString::to_string).collect(),
            headers: [("order".to_owned(), "7".to_owned())].into(),
            ..Stamps::default()
        },
        redrive_of: None,
        stored_arguments: None,
    };
    serde_json::to_string(&spec).unwrap()
}

impl World {
    fn new() -> Self {
        Self {
            broker: Arc::new(MemoryBroker::default()),
            tenant: TenantId::new("acme").unwrap(),
            bounds: PolicyBounds::default(),
        }
    }

    fn carrier(&self) -> Carrier<'_> {
        Carrier { broker: &*self.broker, store: None, bounds: &self.bounds }
    }

    async fn submit(&self, n: u128, tags: &[&str]) -> JobId {
        self.submit_as(JobId::from_parts(1_000, n), tags).await
    }

    async fn submit_as(&self, id: JobId, tags: &[&str]) -> JobId {
        let job = NewJob {
            id,
            tenant: self.tenant.clone(),
            task: TaskName::new("t").unwrap(),
            queue: QueueName::default(),
            priority: 5,
            spec: spec(tags),
            start: Start::Now,
            expires_ms: 0,
            expires_at: None,
            max_deliveries: 5,
            result_ttl_ms: 60_000,
            dead_ttl_ms: 60_000,
            broker_options: None,
            idempotency: None,
            redrive_of: None,
            labels: Label::all_in(&spec(tags)),
            blobs: Vec::new(),
        };
        assert_eq!(self.broker.submit(std::slice::from_ref(&job)).await.unwrap(), [Submitted::Created]);
        self.module(None).await;
        job.id
    }

    /// The record of the jobs' module.
    async fn module(&self, deleted_at: Option<u64>) {
        let digest = Digest::of(b"m");
        let (imports, tasks) = (Vec::new(), Vec::new());
        let info = ModuleInfo {
            digest,
            size_bytes: 1,
            core_module: false,
            imports,
            tasks,
            permissions: None,
            pushed_at: None,
            deleted_at,
        };
        ModuleDocument::write(&*self.broker, &self.tenant, &info, Expect::Any).await.unwrap();
    }

    /// Fails all that is ready.
    async fn fail_all(&self) {
        let claim = |n: u64| Claim {
            worker: WorkerId::new("w").unwrap(),
            queues: vec![QueueName::default()].into(),
            max: 1,
            lease_ms: DEFAULT_LEASE_MS,
            token_seed: Token::new(format!("s{n}")).unwrap(),
            limited: LimitedTenants::default(),
            in_row: 1,
        };
        for n in 0.. {
            let Some(delivery) = self.broker.claim(&claim(n)).await.unwrap().pop() else { return };
            let settle = Settle {
                tenant: delivery.tenant,
                id: delivery.id,
                token: delivery.token,
                resolution: Resolution::Fail { failure: Failure::new("Void", "") },
                record: None,
                progress: None,
                logs: Vec::new(),
                growth: None,
                blobs: None,
            };
            self.broker.settle(&[settle], None).await.unwrap();
        }
    }

    async fn start(&self, n: u128, action: Action, filter: Filter) -> JobId {
        let bulk = Bulk::new(JobId::from_parts(2_000, n), action, filter, 2_000);
        match start(&*self.broker, &self.tenant, bulk).await.unwrap() {
            Started::Created(bulk) => bulk.id,
            other => panic!("{other:?}"),
        }
    }

    async fn advance(&self, id: JobId, now: u64, max: u32) -> Advanced {
        advance(self.carrier(), &self.tenant, id, now, max).await.unwrap()
    }

    async fn finish(&self, id: JobId) -> Bulk {
        for _ in 0..1_000 {
            if self.advance(id, LATER, 2).await == Advanced::Ended {
                return self.bulk(id).await;
            }
        }
        panic!("it does not end");
    }

    async fn bulk(&self, id: JobId) -> Bulk {
        load(&*self.broker, &self.tenant, id).await.unwrap().unwrap()
    }

    async fn state(&self, id: JobId) -> JobState {
        self.broker.job(&self.tenant, id).await.unwrap().unwrap().state
    }
}

fn counts(bulk: &Bulk) -> (u64, u64, u64, u64) {
    (bulk.matched, bulk.done, bulk.skipped, bulk.failed)
}

#[tokio::test]
async fn what_is_submitted_after_an_action_is_none_of_its_business() {
    let world = World::new();
    let before = world.submit(0, &[]).await;
    let id = world.start(7, Action::Cancel, Filter::default()).await;
    let after = world.submit_as(JobId::from_parts(2_000, 8), &[]).await;
    assert_eq!(counts(&world.finish(id).await), (1, 1, 0, 0));
    assert_eq!(world.state(before).await, JobState::Revoked);
    assert_eq!(world.state(after).await, JobState::Queued);
}

#[tokio::test]
async fn a_page_whose_carrier_died_is_done_again_and_counted_once() {
    let world = World::new();
    for n in 0..5 {
        world.submit(n, &[]).await;
    }
    let id = world.start(1, Action::Cancel, Filter::default()).await;
    // One that noted its page, acted on half of it, and died.
    let (mut bulk, version) = read(&*world.broker, &world.tenant, id).await.unwrap().unwrap();
    assert_eq!(world.advance(id, 3_000, 2).await, Advanced::Working);
    bulk = Bulk { matched: 2, page: 7, doing_since: 4_000, ..bulk };
    bulk.doing = (0..2).map(|n| JobId::from_parts(1_000, n)).collect();
    bulk.position = crate::bulk::Position::Before(JobId::from_parts(1_000, 3));
    put(&*world.broker, &world.tenant, &bulk, umbel_broker::Expect::Version(version + 2)).await.unwrap();
    world.broker.cancel(&world.tenant, bulk.doing[0], true).await.unwrap();
    assert_eq!(world.advance(id, 4_001, 2).await, Advanced::Waiting, "its turn is not over");
    let done = world.finish(id).await;
    assert_eq!((counts(&done), done.state), ((3, 3, 0, 0), State::Done), "two of the page, and the one behind it");
}

#[tokio::test]
async fn a_redrive_that_is_done_twice_makes_each_job_once() {
    let world = World::new();
    for n in 0..3 {
        world.submit(n, &[]).await;
    }
    world.fail_all().await;
    let id = world.start(1, Action::Redrive, Filter::default()).await;
    let (before, version) = read(&*world.broker, &world.tenant, id).await.unwrap().unwrap();
    assert_eq!(world.advance(id, 3_000, 10).await, Advanced::Ended);
    // The same page again, as by one that did not hear of it.
    let after = read(&*world.broker, &world.tenant, id).await.unwrap().unwrap().1;
    let doing = (0..3).map(|n| JobId::from_parts(1_000, n)).collect();
    let again = Bulk { doing, page: 1, matched: 3, position: crate::bulk::Position::End, ..before };
    put(&*world.broker, &world.tenant, &again, umbel_broker::Expect::Version(after)).await.unwrap();
    let done = world.finish(id).await;
    assert_eq!(counts(&done), (3, 3, 0, 0));
    assert!(version < after);
    let all = world.broker.jobs(&Filter::default().query(&world.tenant, false, None, 100)).await.unwrap();
    assert_eq!(all.jobs.len(), 6, "three dead ones and three new ones");
    let new = all.jobs.iter().find(|job| job.state == JobState::Queued).unwrap();
    assert!(new.parsed_spec().unwrap().redrive_of.is_some());
}

#[tokio::test]
async fn two_carriers_at_once_count_each_job_once() {
    let world = World::new();
    for n in 0..40 {
        world.submit(n, &[]).await;
    }
    let id = world.start(1, Action::Cancel, Filter::default()).await;
    let carry = async || {
        // Clocks that are far apart: each takes the other's turns for over.
        for now in (1..200).map(|n| n * LATER) {
            if advance(world.carrier(), &world.tenant, id, now, 3).await.unwrap() == Advanced::Ended {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    futures::join!(carry(), carry(), carry());
    let done = world.bulk(id).await;
    assert_eq!((counts(&done), done.state), ((40, 40, 0, 0), State::Done));
    assert!(running(&*world.broker, None, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_action_that_is_aborted_within_a_page_counts_it_and_ends() {
    let world = World::new();
    for n in 0..5 {
        world.submit(n, &[]).await;
    }
    let id = world.start(1, Action::Cancel, Filter::default()).await;
    let (mut bulk, version) = read(&*world.broker, &world.tenant, id).await.unwrap().unwrap();
    bulk.doing = vec![JobId::from_parts(1_000, 4)];
    (bulk.page, bulk.matched) = (1, 1);
    put(&*world.broker, &world.tenant, &bulk, umbel_broker::Expect::Version(version)).await.unwrap();
    assert!(matches!(abort(&*world.broker, &world.tenant, id, 9).await.unwrap(), Aborted::Aborted(_)));
    let done = world.finish(id).await;
    assert_eq!((counts(&done), done.state), ((1, 1, 0, 0), State::Aborted));
    assert_eq!(world.state(JobId::from_parts(1_000, 0)).await, JobState::Queued);
    assert!(running(&*world.broker, None, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_filter_finds_jobs_by_labels_and_ids() {
    let world = World::new();
    let red = world.submit(1, &["red"]).await;
    let blue = world.submit(2, &["blue"]).await;
    let filter = |json: &str| serde_json::from_str::<Filter>(json).unwrap();
    let by_tag = world.start(1, Action::Cancel, filter(r#"{"tag":"red","header":"order:7"}"#)).await;
    assert_eq!(counts(&world.finish(by_tag).await), (1, 1, 0, 0));
    assert_eq!((world.state(red).await, world.state(blue).await), (JobState::Revoked, JobState::Queued));
    let ids = format!(r#"{{"ids":["{blue}","{red}","{blue}","{}"]}}"#, JobId::from_parts(9, 9));
    let by_id = world.start(2, Action::Cancel, filter(&ids)).await;
    assert_eq!(world.finish(by_id).await.done, 1, "what has ended is not matched, and what is named twice is one");
    let times = r#"{"created_after":"2026-01-01T00:00:00Z","state":"failed"}"#;
    let read = filter(times);
    assert_eq!((read.created_after, &read.state[..]), (Some(1_767_225_600_000), &[JobState::Failed][..]));
    assert_eq!(filter(&serde_json::to_string(&read).unwrap()), read);
}

#[tokio::test]
async fn a_redriven_job_keeps_its_limits_and_is_no_rival() {
    let world = World::new();
    let id = world.submit(1, &["red"]).await;
    world.fail_all().await;
    let record = world.broker.job(&world.tenant, id).await.unwrap().unwrap();
    let policy = PolicyPatch { unique: Some(umbel_model::Uniqueness::First), ..PolicyPatch::default() };
    let mut redriver = crate::Redriver::new(world.carrier(), umbel_compose::Digests::Pinned, &policy, "r");
    let job = redriver.redrive(&record, JobId::from_parts(5, 5)).await.unwrap().unwrap();
    let broker_options = job.broker_options.unwrap();
    assert!(broker_options.unique.is_none());
    let limits = broker_options.limits.unwrap();
    assert!(limits.key.is_some() && limits.key_concurrency == 2);
    let spec: JobSpec = serde_json::from_str(&job.spec).unwrap();
    assert_eq!((spec.stamps.tags, spec.v), (vec!["red".to_owned()], 2));
}

#[tokio::test]
async fn a_job_of_a_deleted_module_is_not_done_again_with_it() {
    let world = World::new();
    let id = world.submit(1, &[]).await;
    world.fail_all().await;
    world.module(Some(1)).await;
    let record = world.broker.job(&world.tenant, id).await.unwrap().unwrap();
    let policy = PolicyPatch::default();
    let mut redriver = crate::Redriver::new(world.carrier(), umbel_compose::Digests::Pinned, &policy, "r");
    let refusal = redriver.redrive(&record, JobId::from_parts(5, 5)).await.unwrap().unwrap_err();
    assert!(matches!(refusal, umbel_compose::Refusal::ModuleGone(_)) && refusal.to_string().contains("--current"));
}

#[tokio::test]
async fn so_many_run_and_are_kept_as_may() {
    let world = World::new();
    for n in 0..MAX_RUNNING as u128 {
        world.start(n, Action::Cancel, Filter::default()).await;
    }
    let one_more = Bulk::new(JobId::from_parts(2_000, 99), Action::Cancel, Filter::default(), 2_000);
    assert!(matches!(start(&*world.broker, &world.tenant, one_more).await.unwrap(), Started::TooMany));
    for (_, _, id) in running(&*world.broker, None, 100).await.unwrap() {
        world.finish(id).await;
    }
    for n in 100..250 {
        let bulk = Bulk::new(JobId::from_parts(2_000, n), Action::Cancel, Filter::default(), 2_000 + n as u64);
        assert!(matches!(start(&*world.broker, &world.tenant, bulk).await.unwrap(), Started::Created(_)));
        world.finish(JobId::from_parts(2_000, n)).await;
    }
    let kept = list(&*world.broker, &world.tenant).await.unwrap();
    assert_eq!((kept.len(), kept[0].id), (MAX_KEPT, JobId::from_parts(2_000, 249)));
}

fn keyed(n: u128, body: &str) -> Bulk {
    let bulk = Bulk::new(JobId::from_parts(2_000, n), Action::Cancel, Filter::default(), 2_000);
    Bulk { key: Some(("key".into(), body.into())), ..bulk }
}

#[tokio::test]
async fn submissions_with_one_key_at_once_start_one_action() {
    let world = World::new();
    let starts = (0..8).map(|n| start(&*world.broker, &world.tenant, keyed(n, "body")));
    let answers: Vec<Started> = futures::future::try_join_all(starts).await.unwrap();
    let created = answers.iter().filter(|answer| matches!(answer, Started::Created(_))).count();
    let mut ids: Vec<JobId> = answers
        .into_iter()
        .map(|answer| match answer {
            Started::Created(bulk) | Started::Existing(bulk) => bulk.id,
            other => panic!("{other:?}"),
        })
        .collect();
    ids.dedup();
    assert_eq!((created, ids.len()), (1, 1));
    assert_eq!(list(&*world.broker, &world.tenant).await.unwrap().len(), 1);
    assert_eq!(running(&*world.broker, None, 10).await.unwrap().len(), 1);
    let other = start(&*world.broker, &world.tenant, keyed(99, "another body")).await.unwrap();
    assert!(matches!(other, Started::Conflict(id) if id == ids[0]));
}

#[tokio::test]
async fn of_submissions_at_once_no_more_start_than_may_run() {
    let world = World::new();
    let bulk = |n| Bulk::new(JobId::from_parts(2_000, n), Action::Cancel, Filter::default(), 2_000);
    let starts = (0..3 * MAX_RUNNING as u128).map(|n| start(&*world.broker, &world.tenant, bulk(n)));
    let answers = futures::future::try_join_all(starts).await.unwrap();
    let created = answers.iter().filter(|answer| matches!(answer, Started::Created(_))).count();
    let refused = answers.iter().filter(|answer| matches!(answer, Started::TooMany)).count();
    assert_eq!((created, refused), (MAX_RUNNING, 2 * MAX_RUNNING));
    assert_eq!(list(&*world.broker, &world.tenant).await.unwrap().len(), MAX_RUNNING);
}

#[tokio::test]
async fn what_a_server_wrote_down_before_it_died_is_started_by_the_next_one_with_its_key() {
    let world = World::new();
    start_claims::write(&*world.broker, &world.tenant, vec![keyed(1, "body")], Expect::Absent).await.unwrap();
    let Started::Existing(bulk) = start(&*world.broker, &world.tenant, keyed(2, "body")).await.unwrap() else {
        panic!("it is that of the key");
    };
    assert_eq!(bulk.id, JobId::from_parts(2_000, 1));
    assert_eq!(world.finish(bulk.id).await.state, State::Done);
    // One that nobody asks for again gives its place back in the end.
    let abandoned = keyed(3, "");
    assert_eq!(start_claims::open(vec![abandoned.clone()], &[], 2_001).len(), 1);
    assert!(start_claims::open(vec![abandoned], &[], LATER).is_empty());
}

#[tokio::test]
async fn an_action_whose_document_cannot_be_read_fails_with_a_reason_and_is_not_tried_again() {
    let world = World::new();
    for (n, body) in [(1, "{"), (2, r#"{"id":7,"action":"forget","done":3,"state":"half"}"#)] {
        let id = world.start(n, Action::Cancel, Filter::default()).await;
        let broken = PutDocument {
            tenant: world.tenant.clone(),
            kind: umbel_broker::DocumentKind::Bulk,
            name: id.to_string(),
            expect: Expect::Any,
            body: Some(body.into()),
            held_bytes: 0,
        };
        world.broker.put_document(&broken).await.unwrap();
        assert!(list(&*world.broker, &world.tenant).await.is_ok(), "the others can be looked at meanwhile");
        assert_eq!(world.advance(id, 3_000, 2).await, Advanced::Ended);
        let bulk = world.bulk(id).await;
        assert_eq!((bulk.id, bulk.state, bulk.finished_at), (id, State::Failed, Some(3_000)));
        assert!(bulk.error.unwrap().contains("cannot be read"));
        assert!(running(&*world.broker, None, 10).await.unwrap().is_empty());
    }
    let known = world.bulk(JobId::from_parts(2_000, 2)).await;
    assert_eq!((known.action, known.done), (Action::Forget, 3), "what can be read of it is kept");
}

#[tokio::test]
async fn a_job_that_began_to_run_after_its_page_was_noted_is_left_alone_by_a_purge() {
    let world = World::new();
    let (runs, waits) = (world.submit(1, &[]).await, world.submit(2, &[]).await);
    let waiting: Filter = serde_json::from_str(r#"{"state":["scheduled","queued","retrying"]}"#).unwrap();
    let id = world.start(1, Action::Cancel, waiting).await;
    let (mut bulk, version) = read(&*world.broker, &world.tenant, id).await.unwrap().unwrap();
    (bulk.doing, bulk.page, bulk.matched) = (vec![runs, waits], 1, 2);
    bulk.position = crate::bulk::Position::End;
    put(&*world.broker, &world.tenant, &bulk, Expect::Version(version)).await.unwrap();
    let claim = Claim {
        worker: WorkerId::new("w").unwrap(),
        queues: vec![QueueName::default()].into(),
        max: 1,
        lease_ms: DEFAULT_LEASE_MS,
        token_seed: Token::new("s").unwrap(),
        limited: LimitedTenants::default(),
        in_row: 1,
    };
    assert_eq!(world.broker.claim(&claim).await.unwrap()[0].id, runs);
    let done = world.finish(id).await;
    assert_eq!(counts(&done), (2, 1, 1, 0));
    assert_eq!((world.state(runs).await, world.state(waits).await), (JobState::Running, JobState::Revoked));
    let record = world.broker.job(&world.tenant, runs).await.unwrap().unwrap();
    assert!(!record.cancel_requested, "nobody asked it to end");
}

#[tokio::test]
async fn an_entry_without_an_action_is_forgotten_after_a_while() {
    let world = World::new();
    let id = world.start(1, Action::Cancel, Filter::default()).await;
    let gone = umbel_broker::PutDocument {
        tenant: world.tenant.clone(),
        kind: umbel_broker::DocumentKind::Bulk,
        name: id.to_string(),
        expect: umbel_broker::Expect::Any,
        body: None,
        held_bytes: 0,
    };
    world.broker.put_document(&gone).await.unwrap();
    assert_eq!(world.advance(id, 3_000, 2).await, Advanced::Ended);
    assert_eq!(running(&*world.broker, None, 10).await.unwrap().len(), 1, "its submission may be under way");
    world.advance(id, LATER, 2).await;
    assert!(running(&*world.broker, None, 10).await.unwrap().is_empty());
}

/// A workflow of two jobs that replaces a job.
fn replacement(n: u128, parent: JobId) -> NewWorkflow {
    let template = NodeTemplate {
        task: TaskName::new("t").unwrap(),
        queue: QueueName::default(),
        priority: 5,
        start: Start::Now,
        expires_ms: 0,
        max_deliveries: 3,
        spec: spec(&[]),
        nodes: 2,
    };
    let head = WorkflowHead {
        id: workflow_id(JobId::from_parts(1_500, n << 40)),
        tenant: TenantId::new("acme").unwrap(),
        spec: "{}".into(),
        templates: vec![template],
        nodes: 2,
        starts: vec![Range { first: 0, count: 2 }],
        end: 1,
        deadline_ms: 0,
        keep_ms: 60_000,
        idempotency: None,
        parent: Some(parent),
        depth: 1,
    };
    let arguments = || "{}".to_owned();
    let work = || NewWork::Job {
        template: 0,
        arguments: arguments(),
        takes: false,
        kept: None,
        broker_options: None,
        blobs: Vec::new(),
    };
    let node = || NewNode {
        when: When::Success,
        on_failure: OnFailure::Fail,
        after: None,
        group: None,
        next: Vec::new(),
        work: work(),
    };
    NewWorkflow { head, nodes: vec![node(), node()] }
}

#[tokio::test]
async fn nodes_of_what_replaced_a_job_or_a_node_are_met_by_a_purge() {
    let world = World::new();
    let job = world.submit(1, &[]).await;
    // The job is replaced, and so is a node of what replaced it.
    for n in 1..=2 {
        let claim = Claim {
            worker: WorkerId::new("w").unwrap(),
            queues: vec![QueueName::default()].into(),
            max: 1,
            lease_ms: DEFAULT_LEASE_MS,
            token_seed: Token::new(format!("s{n}")).unwrap(),
            limited: LimitedTenants::default(),
            in_row: 1,
        };
        let delivery = world.broker.claim(&claim).await.unwrap().remove(0);
        let child = replacement(n, delivery.id);
        let settle = Settle {
            tenant: delivery.tenant,
            id: delivery.id,
            token: delivery.token,
            resolution: Resolution::Replace { workflow: child.head.id },
            record: None,
            progress: None,
            logs: Vec::new(),
            growth: Some(Box::new(Growth { workflows: vec![child], members: None })),
            blobs: None,
        };
        assert_eq!(world.broker.settle(&[settle], None).await.unwrap().0, [Settled::Recorded]);
    }
    let waiting: Filter =
        serde_json::from_str(r#"{"queue":"default","state":["scheduled","queued","retrying"]}"#).unwrap();
    let id = world.start(1, Action::Cancel, waiting).await;
    assert_eq!(counts(&world.finish(id).await), (3, 3, 0, 0));
    world.broker.promote(10).await.unwrap();
    assert_eq!(world.state(job).await, JobState::Failed);
}
