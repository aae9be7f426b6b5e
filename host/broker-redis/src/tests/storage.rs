//! Bytes of tenants that a process of an older release did not count.

use super::{chords::tenant, full::single, recount::catch_up, *};

const STORED: &str = "umbel:{s0}:meta:stored:tenant0";

fn set(server: &RedisServer, field: &str, bytes: u64) {
    let () = redis::cmd("HSET").arg(STORED).arg(field).arg(bytes).query(&mut server.connection()).unwrap();
}

#[tokio::test]
async fn counters_that_an_older_release_left_wrong_are_counted_anew_once_a_day_and_by_an_audit() {
    let server = RedisServer::start(Options::default());
    let (clock, now) = Clock::manual(conformance::START_MS);
    let broker = RedisBroker::connect(RedisConfig { clock, ..RedisConfig::new(server.url()) }).await.unwrap();
    broker.submit(&[single(1), single(2)]).await.unwrap();
    let document = PutDocument {
        tenant: tenant(),
        kind: DocumentKind::Module,
        name: "m".into(),
        expect: Expect::Any,
        body: Some("{}".into()),
        held_bytes: 100,
    };
    broker.put_document(&document).await.unwrap();
    let entry = KvWrite {
        tenant: tenant(),
        bucket: "b".parse().unwrap(),
        key: "key".parse().unwrap(),
        expect: Expect::Any,
        change: KvChange::Set { value: b"value".to_vec(), ttl_ms: 0 },
        delivery: None,
    };
    broker.kv_write(&entry).await.unwrap();
    broker.prune(1).await.unwrap();
    let right = broker.stored_bytes(&tenant()).await.unwrap();
    assert_eq!(right, StoredBytes { jobs: 4, logs: 0, documents: 105, modules: 105, kv: 72, blobs: 0 });

    set(&server, "j", 3);
    set(&server, "m", 0);
    set(&server, "k", 1);
    let found = broker.audit(false).await.unwrap();
    assert_eq!((found.len(), found[0].check.as_str(), found[0].example.as_str()), (1, "bytes of a tenant", "tenant0"));
    assert_eq!(broker.audit(true).await.unwrap()[0].fixed, 1);
    assert_eq!(broker.stored_bytes(&tenant()).await.unwrap(), right);
    assert_eq!(broker.audit(false).await.unwrap(), []);

    set(&server, "j", 1 << 30);
    catch_up(&broker).await;
    assert_eq!(broker.stored_bytes(&tenant()).await.unwrap().jobs, 1 << 30, "it was counted today");
    now.fetch_add(86_400_000, Ordering::SeqCst);
    catch_up(&broker).await;
    assert_eq!(broker.stored_bytes(&tenant()).await.unwrap(), right);
    assert_eq!(broker.audit(false).await.unwrap(), []);
}

#[tokio::test]
async fn no_counter_is_negative_when_more_is_given_back_than_was_taken() {
    let server = RedisServer::start(Options::default());
    let broker = RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
    broker.submit(&[single(1), single(2)]).await.unwrap();
    set(&server, "j", 3);
    for (n, left) in [(1, 1), (2, 0)] {
        let id = single(n).id;
        broker.cancel(&tenant(), id, true).await.unwrap();
        assert_eq!(broker.forget(&tenant(), id).await.unwrap(), Forgot::Forgotten);
        assert_eq!(broker.stored_bytes(&tenant()).await.unwrap().jobs, left);
    }
    broker.submit(&[single(3)]).await.unwrap();
    assert_eq!(broker.stored_bytes(&tenant()).await.unwrap().jobs, 2);
}
