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
        usage: Usage { fuel: u64::from(number), memory_bytes: 2, duration_us: 3 },
    }
}

/// A large value of a job, and how a spec refers to it.
fn large(bytes: u64) -> LargeValue {
    LargeValue { sha256: Digest::of(b"x"), bytes, of: job_id(1) }
}

fn spec_with(arguments: &LargeValue, padding: usize) -> String {
    let (reference, padding) = (serde_json::to_string(arguments).unwrap(), "x".repeat(padding));
    format!(r#"{{"n":1,"arguments":{{}},"tags":["{padding}"],"stored_arguments":{reference}}}"#)
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
