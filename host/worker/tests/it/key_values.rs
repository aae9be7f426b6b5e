//! Key-value entries of the guests of a worker: real tasks, a broker, and deliveries that are lost.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use async_trait::async_trait;
use umbel_broker::{
    Claim, Controls, DEFAULT_LEASE_MS, Deliveries, Delivery, Jobs, KeyValues as _, KvDelivery, LimitedTenants,
    Maintenance, StorageLimits,
};
use umbel_capabilities::{
    Effective, Grants, KeyValue, KvError, Reach, Unavailable,
    kv::{At, Expected},
};
use umbel_model::{BucketName, KvKey, Outcome, Permissions, QueueName, Token, WorkerId};
use umbel_sandbox::{AttemptInfo, Call, Discard, Prepared, StopHandle};
use umbel_worker::KeyValues;

use crate::support::{World, tenant};

#[derive(Debug)]
struct All;

#[async_trait]
impl Grants for All {
    async fn now(&self) -> Result<Arc<Effective>, Unavailable> {
        let all = Permissions::new(["kv *".parse().unwrap()]).unwrap();
        Ok(Arc::new(Effective { operator: all.clone(), tenant: None, approved: all }))
    }
}

fn bucket(name: &str) -> BucketName {
    BucketName::new(name).unwrap()
}

fn at(name: &str) -> At {
    At { bucket: bucket("b"), key: KvKey::new(name).unwrap(), expect: Expected::Any }
}

impl World {
    fn entries(&self, delivery: Option<&Delivery>) -> KeyValues {
        let delivery = delivery.map(|held| KvDelivery { job: held.id, token: held.token.clone() });
        KeyValues::new(self.broker.clone(), tenant(), delivery, tokio::runtime::Handle::current())
    }

    /// The module of `guest-examples/kv-counters`.
    async fn counters(&self) -> Prepared {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guests/kv-counters.wasm");
        let module = std::fs::read(&path)
            .unwrap_or_else(|error| panic!("{}: {error}; `cargo xtask guests` builds it", path.display()));
        let digest = self.store.put_bytes(module.into(), 32 << 20).await.unwrap().digest;
        self.runtime.prepared(&tenant(), digest).await.unwrap()
    }

    /// Runs a task of it for a delivery, or for nobody's.
    async fn call(&self, guest: &Prepared, delivery: Option<&Delivery>, task: &str, arguments: &str) -> Outcome {
        let reach = Reach { grants: Arc::new(All), kv: Arc::new(self.entries(delivery)), ..Reach::default() };
        let call = Call {
            task: task.into(),
            arguments: arguments.into(),
            fuel: 10_000_000_000,
            memory_bytes: 64 << 20,
            time_limit_ms: 20_000,
            soft_time_limit_ms: 0,
            info: AttemptInfo { attempt: 1, delivery: 1, ..AttemptInfo::default() },
            reach,
        };
        self.runtime.sandbox().run(guest, call, Arc::new(Discard), &StopHandle::new()).await.outcome
    }

    async fn hand_out(&self, seed: &str) -> Delivery {
        let claim = Claim {
            worker: WorkerId::new("w1").unwrap(),
            queues: vec![QueueName::default()].into(),
            max: 1,
            lease_ms: DEFAULT_LEASE_MS,
            token_seed: Token::new(seed).unwrap(),
            limited: LimitedTenants::default(),
            in_row: 1,
        };
        self.broker.claim(&claim).await.unwrap().pop().expect("a job is ready")
    }

    /// The lease of what runs is over, and somebody takes it back.
    async fn lose(&self) {
        for _ in 0..10 {
            self.broker.reap(0).await.unwrap();
            self.advance(2_000);
        }
        assert_eq!(self.broker.reap(10).await.unwrap().requeued, 1);
    }
}

fn value(outcome: Outcome) -> String {
    match outcome {
        Outcome::Value(value) => value.get().to_owned(),
        other => panic!("{other:?}"),
    }
}

/// The kind of a failure, and whether it may be retried.
fn kind(outcome: Outcome) -> (String, bool) {
    match outcome {
        Outcome::Error { failure, .. } => (failure.kind, true),
        Outcome::Fatal(failure) => (failure.kind, false),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_late_attempt_cannot_write_over_what_its_successor_wrote() {
    let world = World::frozen().await;
    let guest = world.counters().await;
    world.submit('e').await;
    let first = world.hand_out("s1").await;
    let write = |value: &str| format!(r#"{{"bucket":"b","key":"k","value":"{value}"}}"#);
    value(world.call(&guest, Some(&first), "write", &write("first")).await);
    world.lose().await;
    let second = world.hand_out("s2").await;
    value(world.call(&guest, Some(&second), "write", &write("second")).await);

    let late = world.call(&guest, Some(&first), "write", &write("late")).await;
    assert_eq!(kind(late), ("kv:stale".into(), true));
    let counted = world.call(&guest, Some(&first), "visit", r#"{"page":"p","times":1}"#).await;
    assert_eq!(kind(counted).0, "kv:stale");
    let imported = world.call(&guest, Some(&first), "import", r#"{"source":"s","pages":1}"#).await;
    assert_eq!(kind(imported).0, "kv:stale");
    let read = world.call(&guest, Some(&first), "read", r#"{"bucket":"b","key":"k"}"#).await;
    assert_eq!(value(read), r#""second""#, "what it reads is what is there");
}

#[tokio::test]
async fn tasks_keep_counters_and_cursors_from_one_job_to_the_next() {
    let world = World::frozen().await;
    let guest = world.counters().await;
    let visit = r#"{"page":"home","times":2}"#;
    assert_eq!(value(world.call(&guest, None, "visit", visit).await), "[2,2]");
    assert_eq!(value(world.call(&guest, None, "visit", visit).await), "[4,4]");
    world.advance(60_000);
    assert_eq!(value(world.call(&guest, None, "visit", visit).await), "[6,2]");
    for sum in ["20", "40"] {
        assert_eq!(value(world.call(&guest, None, "import", r#"{"source":"shop","pages":2}"#).await), sum);
    }
    let filled = world.call(&guest, None, "fill", r#"{"bucket":"b","entries":250,"bytes":10}"#).await;
    assert_eq!(value(filled), "[250,null]");
    let keys = value(world.call(&guest, None, "keys", r#"{"bucket":"b","prefix":"entry0001"}"#).await);
    assert_eq!(keys.matches("entry").count(), 100);
}

#[tokio::test]
async fn a_flood_ends_at_the_quota_of_its_tenant() {
    let world = World::frozen().await;
    let guest = world.counters().await;
    let limits = StorageLimits { kv: 100_000, ..StorageLimits::default() };
    world.broker.set_storage_limits(&tenant(), limits).await.unwrap();
    let fill = |bytes: u32| format!(r#"{{"bucket":"b","entries":20000,"bytes":{bytes}}}"#);
    assert_eq!(value(world.call(&guest, None, "fill", &fill(1_000)).await), r#"[93,"kv:quota"]"#);
    assert!(world.broker.stored_bytes(&tenant()).await.unwrap().kv <= 100_000);
    assert_eq!(value(world.call(&guest, None, "fill", &fill(70_000)).await), r#"[0,"kv:too_large"]"#);
}

#[tokio::test]
async fn a_broker_that_cannot_be_reached_is_an_error_that_is_retried_and_says_nothing_of_it() {
    let world = World::frozen().await;
    let guest = world.counters().await;
    world.broker.failing_kv.store(1, Ordering::SeqCst);
    let outcome = world.call(&guest, None, "write", r#"{"bucket":"b","key":"k","value":"v"}"#).await;
    let Outcome::Error { failure, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(failure.kind, "kv:unavailable");
    assert!(failure.message.contains("may have been done or not"), "{}", failure.message);
    assert!(!failure.message.contains("as the test wants"), "the broker's own words are not for guests");
    value(world.call(&guest, None, "write", r#"{"bucket":"b","key":"k","value":"v"}"#).await);
}

#[tokio::test]
async fn without_a_grant_a_guest_of_a_worker_reaches_no_bucket() {
    let world = World::new().await;
    let counters = world.counters().await;
    let reach = Reach { kv: Arc::new(world.entries(None)), ..Reach::default() };
    let call = Call {
        task: "write".into(),
        arguments: r#"{"bucket":"b","key":"k","value":"v"}"#.into(),
        fuel: 1_000_000_000,
        memory_bytes: 64 << 20,
        time_limit_ms: 20_000,
        soft_time_limit_ms: 0,
        info: AttemptInfo::default(),
        reach,
    };
    let outcome = world.runtime.sandbox().run(&counters, call, Arc::new(Discard), &StopHandle::new()).await.outcome;
    assert_eq!(kind(outcome), ("kv:denied".into(), false));
    assert_eq!(world.broker.kv_buckets(&tenant()).await.unwrap(), []);
}

#[tokio::test]
async fn answers_of_the_broker_become_those_of_an_attempt() {
    let world = World::frozen().await;
    let entries = world.entries(None);
    let version = entries.set(at("k"), b"v".to_vec(), 0).await.unwrap();
    let conflict = At { expect: Expected::Absent, ..at("k") };
    assert_eq!(entries.set(conflict, Vec::new(), 0).await, Err(KvError::Conflict(version)));
    assert_eq!(entries.add(at("k"), 1, 0, 0).await, Err(KvError::NotANumber));
    assert_eq!(entries.add(at("n"), 2, 40, 0).await, Ok(42));
    assert_eq!(entries.set(at("k"), vec![0; 70_000], 0).await, Err(KvError::TooLarge(64 << 10)));
    let found = entries.get(bucket("b"), vec![KvKey::new("k").unwrap(), KvKey::new("x").unwrap()]).await.unwrap();
    assert_eq!((found[0].as_ref().unwrap().version, &found[1]), (version, &None));
    let page = entries.list(bucket("b"), String::new(), None, 1).await.unwrap();
    assert_eq!((page.entries.len(), page.next), (1, Some(KvKey::new("k").unwrap())));
    assert_eq!(entries.delete(At { expect: Expected::Version(version), ..at("k") }).await, Ok(true));
    assert_eq!(entries.delete(at("k")).await, Ok(false));
    // A delivery that nobody ever made.
    world.submit('e').await;
    let held = world.hand_out("s1").await;
    let forged = Delivery { token: Token::new("forged").unwrap(), ..held };
    assert_eq!(world.entries(Some(&forged)).set(at("k"), Vec::new(), 0).await, Err(KvError::Stale));
    assert!(world.broker.job(&tenant(), forged.id).await.unwrap().is_some());
}
