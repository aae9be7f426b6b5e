//! The bytes that are stored of a tenant.

use umbel_broker::rules::storage;
use umbel_model::{AttemptRecord, Digest, LargeValue, Progress, Usage, job::MAX_HISTORY};

use super::{flows::*, *};

fn attempt(number: u32) -> AttemptRecord {
    AttemptRecord {
        attempt: number,
        delivery: 1,
        worker: WorkerId::new("w1").unwrap(),
        ended_at: START_MS,
        outcome: "error".into(),
        failure: (number.is_multiple_of(2))
            .then(|| Failure::new("E", "line\nbreak \"quoted\" é".repeat(number as usize))),
        usage: Usage { fuel: u64::from(number), memory_bytes: 2, duration_us: 3, ..Usage::default() },
    }
}

/// A large value of a job, and how a spec refers to it.
fn large(bytes: u64) -> LargeValue {
    LargeValue { sha256: Digest::of(b"x"), bytes, of: job_id(1) }
}

fn spec_with(arguments: &LargeValue, padding: usize) -> String {
    let (reference, padding) = (serde_json::to_string(arguments).unwrap(), "x".repeat(padding));
    format!(r#"{{"n":1,"arguments":{{}},"padding":["{padding}"],"stored_arguments":{reference}}}"#)
}

impl Subject {
    async fn bytes(&self) -> StoredBytes {
        self.broker.stored_bytes(&tenant("t1")).await.unwrap()
    }

    /// The bytes of jobs are those of what can be read of these, and of so many more.
    async fn counts(&self, jobs: &[JobId], more: u64) {
        let (mut expected, mut logs) = (more, 0);
        for id in jobs {
            let Some(record) = self.broker.job(&tenant("t1"), *id).await.unwrap() else { continue };
            expected += storage::job(&record);
            let lines = self.broker.logs(&tenant("t1"), *id, 0, 1_000).await.unwrap();
            logs += lines.iter().map(storage::line).sum::<u64>();
        }
        let stored = self.bytes().await;
        assert_eq!((stored.jobs, stored.logs), (expected + logs, logs));
    }
}

pub async fn the_bytes_of_a_job_are_counted_from_its_submission_to_its_deletion(s: Subject) {
    let mut id = s.add(NewJob { spec: spec_with(&large(5_000_000), 0), ..new_job(1) }).await;
    let small = s.bytes().await.jobs;
    assert!(small > 5_000_000, "{small}");
    s.forget_now(id).await;
    assert_eq!(s.bytes().await, StoredBytes::default());
    id = s.add(NewJob { spec: spec_with(&large(7_000_000), 5_000), ..new_job(1) }).await;
    let padded = s.bytes().await.jobs;
    assert_eq!(padded, storage::job(&s.read(id).await));
    assert!(padded > 7_005_000, "{padded}");
    // Of tenants each.
    let other = NewJob { tenant: tenant("t2"), ..new_job(1) };
    assert_eq!(s.broker.submit(std::slice::from_ref(&other)).await.unwrap(), [Submitted::Created]);
    s.counts(&[id], 0).await;
    let refused = NewJob { spec: "\"x\"".repeat(100), ..new_job(1) };
    assert_eq!(s.broker.submit(&[refused]).await.unwrap(), [Submitted::Existing(id)]);
    s.counts(&[id], 0).await;
    s.forget_now(id).await;
    assert_eq!(s.bytes().await, StoredBytes::default());
    let stored = s.broker.stored_bytes(&tenant("t2")).await.unwrap();
    assert_eq!(stored, StoredBytes { jobs: other.spec.len() as u64, ..StoredBytes::default() });
}

impl Subject {
    /// Cancels a job that waits, and deletes it.
    async fn forget_now(&self, id: JobId) {
        self.broker.cancel(&tenant("t1"), id, true).await.unwrap();
        assert_eq!(self.broker.forget(&tenant("t1"), id).await.unwrap(), Forgot::Forgotten);
    }
}

pub async fn the_bytes_of_what_attempts_leave_are_counted(s: Subject) {
    let id = s.add(new_job(1)).await;
    for number in 1..=MAX_HISTORY as u32 + 7 {
        let delivery = s.claim_one().await;
        let progress =
            Progress {
                done: u64::from(number), total: 0, message: "é".repeat(number as usize), ..Progress::default()
            };
        let logs = vec![line(u64::from(number))];
        let heard = Renewal { progress: Some(progress), logs: logs.clone(), ..renewal_of(&delivery) };
        s.broker.renew(DEFAULT_LEASE_MS, &[heard]).await.unwrap();
        s.counts(&[id], 0).await;
        let failure = Failure::new("Timeout", "slow ".repeat(number as usize));
        let resolution = Resolution::Retry { delay_ms: 0, failure };
        let settle = Settle { record: Some(attempt(number)), logs, ..settle_of(&delivery, resolution) };
        s.broker.settle(&[settle], None).await.unwrap();
        s.broker.promote(10).await.unwrap();
        s.counts(&[id], 0).await;
    }
    let delivery = s.claim_one().await;
    let reference = large(9_000_000).reference();
    let settle = Settle { record: Some(attempt(99)), ..settle_of(&delivery, succeed(&reference)) };
    s.broker.settle(&[settle], None).await.unwrap();
    s.counts(&[id], 0).await;
    assert!(s.bytes().await.jobs > 9_000_000);
    s.pass(1_000_000);
    assert_eq!(s.broker.prune(10).await.unwrap(), 1);
    assert_eq!(s.bytes().await, StoredBytes::default());
}

pub async fn the_bytes_of_results_of_one_call_are_counted_each(s: Subject) {
    let ids: Vec<JobId> = futures::future::join_all((1..=4).map(|n| s.add(new_job(n)))).await;
    let held = s.claim(4).await;
    let resolutions = [
        succeed("\"a result\""),
        succeed(&large(3_000).reference()),
        succeed(&format!("\"{}\"", "long".repeat(2_000))),
        Resolution::Succeed { result: None },
    ];
    let settles: Vec<Settle> = (1..)
        .zip(held.iter().zip(resolutions))
        .map(|(n, (delivery, resolution))| Settle { record: Some(attempt(n)), ..settle_of(delivery, resolution) })
        .collect();
    s.broker.settle(&settles, None).await.unwrap();
    s.counts(&ids, 0).await;
    // A settle that comes again adds nothing.
    s.broker.settle(&settles, None).await.unwrap();
    s.counts(&ids, 0).await;
    s.pass(1_000_000);
    assert_eq!(s.broker.prune(10).await.unwrap(), 4);
    assert_eq!(s.bytes().await, StoredBytes::default());
}

pub async fn the_bytes_of_a_workflow_are_those_of_its_texts_and_of_its_nodes(s: Subject) {
    let json = r#"{"chord":[{"task":"a","args":[1]},{"task":"b"}],"body":{"task":"z","link_error":[{"task":"e"}]}}"#;
    let flow = flow(1, json);
    let of_texts = storage::workflow(&flow.head.spec, &flow.head.templates);
    let f = s.begin(&flow).await;
    let ids: Vec<JobId> = (0..flow.head.nodes).map(|number| f.id_of(number)).collect();
    s.counts(&ids, of_texts).await;
    // Nodes that are stored twice take their place once.
    let again = flow_of(flow_id(2), planned(json));
    for _ in 0..2 {
        s.broker.stage_workflow(&again.head).await.unwrap();
        s.broker.stage_nodes(&tenant("t1"), again.head.id, 0, &again.nodes).await.unwrap();
    }
    let staged: Vec<JobId> =
        (0..again.head.nodes).map(|number| umbel_model::canvas::node_job(again.head.id, number)).collect();
    s.counts(&[ids.clone(), staged].concat(), 2 * of_texts).await;
    s.pass(STAGED_TTL_MS);
    s.prune_all().await;
    s.counts(&ids, of_texts).await;
    let a = s.next("a").await;
    let child = s.replace(&a, 3, r#"{"task":"c"}"#).await;
    let stored = s.broker.workflow(&tenant("t1"), child.id).await.unwrap().unwrap();
    let of_both = of_texts + storage::workflow(&stored.spec, &stored.templates);
    let all = [ids.clone(), vec![child.id_of(0)]].concat();
    s.counts(&all, of_both).await;
    s.run_all(&["b"]).await;
    s.run("c", fail()).await;
    s.run_all(&["e"]).await;
    s.counts(&all, of_both).await;
    assert_eq!(s.broker.forget_workflow(&tenant("t1"), f.id).await.unwrap(), WorkflowForgot::Forgotten);
    s.prune_all().await;
    assert_eq!(s.bytes().await, StoredBytes::default());
}

pub async fn the_bytes_of_documents_are_counted_with_those_that_they_stand_for(s: Subject) {
    let put = |kind, name: &str, body: Option<&str>, held_bytes| PutDocument {
        tenant: tenant("t1"),
        kind,
        name: name.into(),
        expect: Expect::Any,
        body: body.map(Into::into),
        held_bytes,
    };
    let steps = [
        (put(DocumentKind::Task, "a", Some("{}"), 0), (5, 0)),
        (put(DocumentKind::Module, "sha", Some("{\"é\":1}"), 1_000), (5 + 1_013, 1_013)),
        (put(DocumentKind::Module, "sha", Some("{}"), 1_000), (5 + 1_007, 1_007)),
        (put(DocumentKind::Module, "sha", Some("{}"), 30), (5 + 37, 37)),
        (put(DocumentKind::Task, "a", None, 0), (37, 37)),
        (put(DocumentKind::Task, "a", None, 0), (37, 37)),
        (put(DocumentKind::Module, "sha", None, 0), (0, 0)),
    ];
    for (put, (documents, modules)) in steps {
        assert!(matches!(s.broker.put_document(&put).await.unwrap(), DocumentPut::Stored(_)), "{put:?}");
        let stored = s.bytes().await;
        assert_eq!((stored.documents, stored.modules), (documents, modules), "{put:?}");
    }
}

impl Subject {
    /// Lets tenant `t1` store so many bytes of jobs, and as many of documents; 0: as many as each.
    async fn limit_bytes(&self, bytes: u64) {
        let limits = StorageLimits { jobs: bytes, documents: bytes, kv: bytes, blobs: bytes };
        self.broker.set_storage_limits(&tenant("t1"), limits).await.unwrap();
        assert_eq!(self.broker.storage_limits(&tenant("t1")).await.unwrap(), limits);
    }

    async fn submit_sized(&self, numbers: &[u64], bytes: usize) -> Vec<Submitted> {
        let sized = |n: &u64| {
            let spec = format!(r#"{{"n":{n}}}"#);
            let padding = " ".repeat(bytes - spec.len());
            NewJob { spec: spec + &padding, ..new_job(*n) }
        };
        self.broker.submit(&numbers.iter().map(sized).collect::<Vec<_>>()).await.unwrap()
    }
}

pub async fn a_submission_that_does_not_fit_is_refused_until_something_is_deleted(s: Subject) {
    use Submitted::{Created, Existing, StorageFull};
    s.limit_bytes(1_000).await;
    assert_eq!(s.submit_sized(&[1, 2], 400).await, [Created, Created]);
    // What fits of a batch is stored.
    assert_eq!(s.submit_sized(&[3, 1, 4], 150).await, [Created, Existing(job_id(1)), StorageFull]);
    assert_eq!(s.submit_sized(&[5], 51).await, [StorageFull]);
    assert_eq!(s.submit_sized(&[6], 50).await, [Created]);
    assert_eq!(s.bytes().await.jobs, 1_000);
    // A tenant of its own.
    let other = NewJob { tenant: tenant("t2"), ..new_job(1) };
    assert_eq!(s.broker.submit(&[other]).await.unwrap(), [Created]);
    // What is stored goes on, comes to its end and is deleted.
    let held = s.claim(10).await;
    assert_eq!(held.len(), 5);
    let held: Vec<Delivery> = held.into_iter().filter(|delivery| delivery.tenant == tenant("t1")).collect();
    assert_eq!(s.settle(&held[0], retry(0)).await, Settled::Recorded);
    assert_eq!(s.settle(&held[1], succeed("\"small\"")).await, Settled::Recorded);
    assert!(s.bytes().await.jobs > 1_000);
    assert_eq!(s.submit_sized(&[7], 10).await, [StorageFull]);
    assert_eq!(s.broker.forget(&tenant("t1"), held[1].id).await.unwrap(), Forgot::Forgotten);
    assert_eq!(s.submit_sized(&[8], 10).await, [Created]);
    // Less than is stored deletes nothing, and what each may store holds again.
    s.limit_bytes(10).await;
    assert_eq!(s.submit_sized(&[9], 10).await, [StorageFull]);
    s.limit_bytes(0).await;
    assert_eq!(s.submit_sized(&[9], 100_000).await, [Created]);
}

pub async fn a_result_that_does_not_fit_fails_its_job_which_can_be_redriven(s: Subject) {
    s.submit_sized(&[1, 2, 3], 100).await;
    s.limit_bytes(5_300).await;
    let held = s.claim(3).await;
    let text = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
    let settles = [
        settle_of(&held[0], succeed(&text(5_000))),
        Settle { record: Some(attempt(1)), ..settle_of(&held[1], succeed(&text(5_000))) },
        settle_of(&held[2], succeed(&text(4_096))),
    ];
    assert_eq!(s.broker.settle(&settles, None).await.unwrap().0, [Settled::Recorded; 3]);
    let states = [s.state(job_id(1)).await, s.state(job_id(2)).await, s.state(job_id(3)).await];
    assert_eq!(states, [JobState::Succeeded, JobState::Failed, JobState::Succeeded]);
    let failure = s.read(job_id(2)).await.failure.unwrap();
    // The three specs, and the first result.
    assert_eq!(failure, storage::result_failure(300 + 5_000, 5_300));
    assert_eq!(s.dead().await, [job_id(2)]);
    assert_eq!(s.broker.settle(&settles, None).await.unwrap().0, [Settled::AlreadyDone; 3]);
    s.counts(&[job_id(1), job_id(2), job_id(3)], 0).await;
    let large = settle_of(&held[1], succeed(&large(9_000_000).reference()));
    assert_eq!(s.broker.settle(&[large], None).await.unwrap().0, [Settled::AlreadyDone]);
    s.limit_bytes(0).await;
    s.add(NewJob { redrive_of: Some(job_id(2)), ..new_job(4) }).await;
    let again = s.claim_one().await;
    s.settle(&again, succeed(&text(5_000))).await;
    assert_eq!(s.state(job_id(4)).await, JobState::Succeeded);
}

pub async fn a_large_value_that_does_not_fit_counts_with_its_size(s: Subject) {
    s.limit_bytes(10_000).await;
    let job = |n, bytes| NewJob { spec: spec_with(&large(bytes), 0), ..new_job(n) };
    let answers = s.broker.submit(&[job(1, 20_000), job(2, 8_000)]).await.unwrap();
    assert_eq!(answers, [Submitted::StorageFull, Submitted::Created]);
    let delivery = s.claim_one().await;
    s.settle(&delivery, succeed(&large(5_000).reference())).await;
    assert_eq!(s.read(job_id(2)).await.failure.unwrap().kind, storage::STORAGE_QUOTA);
}

pub async fn log_lines_that_do_not_fit_are_dropped(s: Subject) {
    let id = s.add(new_job(1)).await;
    let delivery = s.claim_one().await;
    let used = s.bytes().await.jobs;
    s.limit_bytes(used + 2 * storage::line(&line(1)) + 5).await;
    let heard = Renewal { logs: vec![line(1)], progress: Some(Progress::default()), ..renewal_of(&delivery) };
    s.broker.renew(DEFAULT_LEASE_MS, &[heard]).await.unwrap();
    assert_eq!(s.broker.logs(&tenant("t1"), id, 0, 10).await.unwrap(), [line(1)]);
    s.limit_bytes(s.bytes().await.jobs + storage::line(&line(1)) + 5).await;
    let settle = Settle { logs: vec![line(2), line(3), line(4)], ..settle_of(&delivery, succeed("1")) };
    assert_eq!(s.broker.settle(&[settle], None).await.unwrap().0, [Settled::Recorded]);
    assert_eq!(s.broker.logs(&tenant("t1"), id, 0, 10).await.unwrap(), [line(1), line(2)]);
    assert_eq!(s.state(id).await, JobState::Succeeded);
}

pub async fn a_workflow_that_does_not_fit_is_refused(s: Subject) {
    let flow = flow(1, r#"{"group":[{"task":"a","args":["0123456789"]},{"task":"b","args":["0123456789"]}]}"#);
    let of_texts = storage::workflow(&flow.head.spec, &flow.head.templates);
    let of_nodes: u64 = flow.nodes.iter().map(storage::node).sum();
    s.limit_bytes(of_texts - 1).await;
    assert_eq!(s.broker.stage_workflow(&flow.head).await.unwrap(), WorkflowSubmitted::StorageFull);
    assert_eq!(s.bytes().await, StoredBytes::default());
    s.limit_bytes(of_texts + of_nodes - 1).await;
    assert_eq!(s.broker.stage_workflow(&flow.head).await.unwrap(), WorkflowSubmitted::Created);
    let t = tenant("t1");
    let stage = || s.broker.stage_nodes(&t, flow.head.id, 0, &flow.nodes);
    assert_eq!(stage().await.unwrap(), WorkflowSubmitted::StorageFull);
    s.limit_bytes(of_texts + of_nodes).await;
    assert_eq!(stage().await.unwrap(), WorkflowSubmitted::Created);
    let start = s.broker.start_workflow(&tenant("t1"), flow.head.id).await.unwrap();
    assert_eq!(start, WorkflowSubmitted::Created);
    // A guest is told as when there is no room for other reasons, and may end without it.
    let a = s.next("a").await;
    let new = flow_of(flow_id(2), planned(r#"{"task":"c"}"#));
    let growth = Some(Box::new(Growth { workflows: vec![new], members: None }));
    let grown = Settle { growth, ..settle_of(&a, succeed("1")) };
    assert_eq!(s.broker.settle(std::slice::from_ref(&grown), None).await.unwrap().0, [Settled::NoCapacity]);
    s.limit_bytes(0).await;
    assert_eq!(s.broker.settle(&[grown], None).await.unwrap().0, [Settled::Recorded]);
}

pub async fn a_module_that_does_not_fit_is_refused_and_what_empties_a_tenant_is_not(s: Subject) {
    let put = |kind, name: &str, body: &str, held_bytes| PutDocument {
        tenant: tenant("t1"),
        kind,
        name: name.into(),
        expect: Expect::Any,
        body: Some(body.into()),
        held_bytes,
    };
    s.limit_bytes(1_000).await;
    let steps = [
        (put(DocumentKind::Module, "a", "{}", 900), DocumentPut::Stored(1)),
        (put(DocumentKind::Module, "b", "{}", 900), DocumentPut::StorageFull),
        (put(DocumentKind::Module, "a", "{}", 996), DocumentPut::StorageFull),
        (put(DocumentKind::Module, "a", "{}", 995), DocumentPut::Stored(2)),
        (put(DocumentKind::Task, "t", "{}", 0), DocumentPut::StorageFull),
        (put(DocumentKind::Secret, "s", "{}", 0), DocumentPut::StorageFull),
        (put(DocumentKind::Bulk, "purge", "{\"long\":1}", 0), DocumentPut::Stored(1)),
        (put(DocumentKind::ControlLayers, "layers", "{\"long\":1}", 0), DocumentPut::Stored(1)),
        (put(DocumentKind::Module, "a", "{}", 994), DocumentPut::Stored(3)),
        (PutDocument { body: None, ..put(DocumentKind::Module, "a", "", 0) }, DocumentPut::Stored(0)),
        (put(DocumentKind::Task, "t", "{}", 0), DocumentPut::Stored(1)),
    ];
    for (put, answer) in steps {
        assert_eq!(s.broker.put_document(&put).await.unwrap(), answer, "{put:?}");
    }
}
