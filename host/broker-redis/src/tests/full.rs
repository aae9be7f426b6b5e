//! A server that reached its `maxmemory`: what it has ends and is deleted, and nothing is added.

use umbel_broker::submit_workflow;
use umbel_model::{JobState, Resolution, canvas::Range};

use super::{
    chords::{chord, claim, head, job, run_all, settle, template, tenant},
    *,
};

fn limit(server: &RedisServer, bytes: &str) {
    let () = redis::cmd("CONFIG").arg(&["SET", "maxmemory", bytes]).query(&mut server.connection()).unwrap();
}

/// A job of its own.
pub(super) fn single(n: u64) -> NewJob {
    NewJob {
        id: JobId::from_parts(conformance::START_MS, n.into()),
        tenant: tenant(),
        task: "echo".parse().unwrap(),
        queue: QueueName::default(),
        priority: 5,
        spec: "{}".into(),
        start: Start::Now,
        expires_ms: 0,
        max_deliveries: 5,
        result_ttl_ms: 1_000,
        dead_ttl_ms: 1_000,
        expires_at: None,
        broker_options: None,
        idempotency: None,
        redrive_of: None,
        labels: Vec::new(),
        blobs: Vec::new(),
    }
}

/// A workflow of one job, to be submitted by a guest.
pub(super) fn workflow(id: u64, parent: Option<JobId>) -> NewWorkflow {
    let nodes = vec![job(0, None, None, Vec::new(), "{}".into())];
    let head = head(id, vec![template(1, "echo")], vec![Range::one(0)], 0);
    NewWorkflow { head: WorkflowHead { parent, depth: 1, ..head }, nodes }
}

pub(super) fn growing(delivery: &Delivery, workflows: Vec<NewWorkflow>) -> Settle {
    Settle { growth: Some(Box::new(Growth { workflows, members: None })), ..settle(delivery) }
}

#[tokio::test]
async fn a_full_server_deletes_what_is_over() {
    let server = RedisServer::start(Options::default());
    let (clock, now) = Clock::manual(conformance::START_MS);
    let broker = RedisBroker::connect(RedisConfig { clock, ..RedisConfig::new(server.url()) }).await.unwrap();
    broker.submit(&[single(1)]).await.unwrap();
    let held = broker.claim(&claim(1)).await.unwrap();
    let child = workflow(2, Some(held[0].id));
    let replaced = Settle {
        resolution: Resolution::Replace { workflow: child.head.id },
        record: None,
        ..growing(&held[0], vec![child])
    };
    assert_eq!(broker.settle(&[replaced], None).await.unwrap().0, [Settled::Recorded]);
    let (head, nodes) = chord(3, 498);
    assert_eq!(nodes.len(), 500);
    assert_eq!(submit_workflow(&broker, &head, &nodes).await.unwrap(), WorkflowSubmitted::Created);
    assert_eq!(run_all(&broker).await, 1 + 499);
    assert_eq!(broker.job(&tenant(), held[0].id).await.unwrap().unwrap().state, JobState::Succeeded);
    now.fetch_add(100_000_000, Ordering::SeqCst);
    limit(&server, "1");
    // The replaced job, its workflow, and the nodes of the other one in one batch; itself in a last one.
    let mut deleted = vec![broker.prune(1).await.unwrap(), broker.prune(2).await.unwrap()];
    while *deleted.last().unwrap() > 0 {
        deleted.push(broker.prune(500).await.unwrap());
    }
    assert!(deleted.contains(&500), "{deleted:?}");
    assert_eq!(deleted.iter().sum::<u32>(), 1 + 2 + 501, "{deleted:?}");
    limit(&server, "0");
    broker.ready_queues().await.unwrap();
    let mut left: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut server.connection()).unwrap();
    left.sort();
    assert_eq!(
        left,
        [
            "meta",
            "meta:counted_seq",
            "meta:labels_v1",
            "meta:recounted_v1",
            "meta:seq",
            "meta:turn",
            "meta:usage_hours_v1",
            "meta:usage_v1:tenant0,500000",
            "seq"
        ]
        .map(|key| format!("umbel:{{s0}}:{key}"))
    );
}

#[tokio::test]
async fn a_full_server_refuses_what_guests_add_and_records_what_ended() {
    let server = RedisServer::start(Options::default());
    let broker = RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
    broker.submit(&[single(1), single(2)]).await.unwrap();
    let held = broker.claim(&claim(2)).await.unwrap();
    let (grows, ends) = (growing(&held[0], vec![workflow(3, None)]), settle(&held[1]));
    limit(&server, "1");
    let (settled, _) = broker.settle(&[grows.clone(), ends], None).await.unwrap();
    assert_eq!(settled, [Settled::NoCapacity, Settled::Recorded]);
    limit(&server, "0");
    assert_eq!(broker.settle(std::slice::from_ref(&grows), None).await.unwrap().0, [Settled::Recorded]);
    limit(&server, "1");
    // It comes again because its answer was lost.
    assert_eq!(broker.settle(&[grows], None).await.unwrap().0, [Settled::AlreadyDone]);
    assert_eq!(run_all(&broker).await, 1);
}

#[tokio::test]
async fn a_full_server_takes_actions_on_many_jobs_and_no_other_documents() {
    let server = RedisServer::start(Options::default());
    let broker = RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
    let put = |kind| {
        let (tenant, name, body) = (tenant(), "purge".to_owned(), Some("{}".to_owned()));
        PutDocument { tenant, kind, name, expect: Expect::Absent, body, held_bytes: 0 }
    };
    limit(&server, "1");
    assert_eq!(broker.put_document(&put(DocumentKind::Bulk)).await.unwrap(), DocumentPut::Stored(1));
    assert!(matches!(broker.put_document(&put(DocumentKind::Task)).await, Err(Error::Full(_))));
}

#[tokio::test]
async fn values_of_a_whole_page_are_read_in_pieces() {
    let subject = subject().await;
    let (head, nodes) = chord(1, 200);
    assert_eq!(submit_workflow(&*subject.broker, &head, &nodes).await.unwrap(), WorkflowSubmitted::Created);
    let values = subject.broker.values(&head.tenant, head.id, 0, 1_000).await.unwrap();
    let kinds: Vec<char> = values
        .iter()
        .map(|value| match value {
            NodeValue::Join { .. } => 'g',
            NodeValue::Job { .. } => 'j',
            NodeValue::Missing => '-',
        })
        .collect();
    assert_eq!(values.len(), 1_000);
    assert_eq!(kinds.iter().collect::<String>(), format!("g{}{}", "j".repeat(201), "-".repeat(798)));
}

#[tokio::test]
async fn a_staged_workflow_without_nodes_is_deleted() {
    let subject = subject().await;
    let empty = WorkflowHead { nodes: 0, ..head(1, Vec::new(), Vec::new(), 0) };
    assert_eq!(subject.broker.stage_workflow(&empty).await.unwrap(), WorkflowSubmitted::Created);
    subject.now.fetch_add(100_000_000, Ordering::SeqCst);
    assert_eq!(subject.broker.prune(10).await.unwrap(), 1);
}

#[tokio::test]
async fn a_full_server_deletes_entries_and_takes_no_new_ones() {
    let server = RedisServer::start(Options::default());
    let broker = RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
    let write = |key: &str, change: KvChange| KvWrite {
        tenant: tenant(),
        bucket: "b".parse().unwrap(),
        key: key.parse().unwrap(),
        expect: Expect::Any,
        change,
        delivery: None,
    };
    let set = |key: &str| write(key, KvChange::Set { value: b"v".to_vec(), ttl_ms: 0 });
    for key in ["a", "b", "c"] {
        assert!(matches!(broker.kv_write(&set(key)).await.unwrap(), KvWritten::Stored(_)));
    }
    limit(&server, "1");
    assert!(matches!(broker.kv_write(&set("d")).await, Err(Error::Full(_))));
    assert_eq!(broker.kv_write(&write("a", KvChange::Delete)).await.unwrap(), KvWritten::Deleted(true));
    let bucket = "b".parse().unwrap();
    let deleted = broker.kv_delete_bucket(&tenant(), &bucket, 10).await.unwrap();
    assert_eq!(deleted, KvBucketDeleted { deleted: 2, has_more: false });
    limit(&server, "0");
    assert_eq!(broker.kv_buckets(&tenant()).await.unwrap(), []);
    let mut left: Vec<String> = redis::cmd("KEYS").arg("*kv*").query(&mut server.connection()).unwrap();
    left.sort();
    assert_eq!(left, ["umbel:{s0}:meta:kv_versions_v1"], "the last version stays");
}
