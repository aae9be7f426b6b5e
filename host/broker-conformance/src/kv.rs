//! Key-value entries.

use umbel_broker::rules::kv::ENTRY_BYTES;
use umbel_model::{BucketName, KvKey};

use super::*;

fn bucket(name: &str) -> BucketName {
    BucketName::new(name).unwrap()
}

fn key(name: &str) -> KvKey {
    KvKey::new(name).unwrap()
}

/// A write of tenant `t1` into the bucket `b`, by people, whatever is there.
fn write(name: &str, change: KvChange) -> KvWrite {
    let (tenant, bucket, key) = (tenant("t1"), bucket("b"), key(name));
    KvWrite { tenant, bucket, key, expect: Expect::Any, change, delivery: None }
}

fn set(value: impl Into<Vec<u8>>) -> KvChange {
    KvChange::Set { value: value.into(), ttl_ms: 0 }
}

fn add(delta: i64) -> KvChange {
    KvChange::Add { delta, initial: 0, ttl_ms: 0 }
}

fn by(delivery: &Delivery, write: KvWrite) -> KvWrite {
    let (job, token) = (delivery.id, delivery.token.clone());
    KvWrite { delivery: Some(KvDelivery { job, token }), ..write }
}

impl Subject {
    async fn write(&self, write: KvWrite) -> KvWritten {
        self.broker.kv_write(&write).await.unwrap()
    }

    async fn set(&self, name: &str, value: &str) -> u64 {
        match self.write(write(name, set(value))).await {
            KvWritten::Stored(version) => version,
            other => panic!("{other:?}"),
        }
    }

    async fn get(&self, name: &str) -> Option<KvEntry> {
        self.broker.kv_get(&tenant("t1"), &bucket("b"), &[key(name)]).await.unwrap().pop().unwrap()
    }

    async fn text_of(&self, name: &str) -> Option<String> {
        self.get(name).await.map(|entry| String::from_utf8(entry.value).unwrap())
    }

    async fn kv_bytes(&self) -> u64 {
        self.broker.stored_bytes(&tenant("t1")).await.unwrap().kv
    }

    /// All keys that begin with a text, in pages of `max`.
    async fn keys_by(&self, prefix: &str, max: u32) -> (Vec<String>, usize) {
        let (mut keys, mut pages, mut after) = (Vec::new(), 0, None);
        loop {
            let query = KvQuery { tenant: tenant("t1"), bucket: bucket("b"), prefix: prefix.into(), after, max };
            let page = self.broker.kv_list(&query).await.unwrap();
            assert!(page.entries.len() <= max as usize);
            pages += 1;
            keys.extend(page.entries.into_iter().map(|(key, _)| key.to_string()));
            after = page.next;
            if after.is_none() {
                return (keys, pages);
            }
        }
    }
}

pub async fn an_entry_is_read_as_it_was_written_by_its_tenant_and_bucket(s: Subject) {
    let bytes: Vec<u8> = (0..=255).chain([0, 10, 13, 0]).collect();
    for (name, value) in [("all", bytes.clone()), ("empty", Vec::new()), ("é /:,{}*", b"odd".to_vec())] {
        assert!(matches!(s.write(write(name, set(value))).await, KvWritten::Stored(_)));
    }
    let keys = ["empty", "missing", "é /:,{}*", "all", "all"].map(key);
    let found = s.broker.kv_get(&tenant("t1"), &bucket("b"), &keys).await.unwrap();
    let values: Vec<Option<Vec<u8>>> = found.into_iter().map(|entry| entry.map(|entry| entry.value)).collect();
    assert_eq!(values, [Some(Vec::new()), None, Some(b"odd".to_vec()), Some(bytes.clone()), Some(bytes)]);
    for (of, name) in [("t2", "b"), ("t1", "c")] {
        assert_eq!(s.broker.kv_get(&tenant(of), &bucket(name), &[key("all")]).await.unwrap(), [None]);
    }
}

pub async fn a_version_of_an_entry_only_rises_also_when_it_was_deleted(s: Subject) {
    let mut last = s.set("a", "1").await;
    for round in 0..3 {
        let version = s.set("a", "1").await;
        assert!(version > last, "{round}: {version} follows {last}");
        assert_eq!(s.get("a").await.unwrap().version, version);
        assert_eq!(s.write(write("a", KvChange::Delete)).await, KvWritten::Deleted(true));
        assert_eq!(s.write(write("a", KvChange::Delete)).await, KvWritten::Deleted(false));
        last = version;
    }
}

pub async fn an_entry_is_changed_only_at_the_expected_version(s: Subject) {
    let at = |expect, change| s.write(KvWrite { expect, ..write("a", change) });
    assert_eq!(at(Expect::Version(3), set("x")).await, KvWritten::Conflict(0));
    let KvWritten::Stored(first) = at(Expect::Absent, set("1")).await else { panic!() };
    assert_eq!(at(Expect::Absent, set("x")).await, KvWritten::Conflict(first));
    let KvWritten::Stored(second) = at(Expect::Version(first), set("2")).await else { panic!() };
    for change in [set("x"), KvChange::Delete, add(1)] {
        assert_eq!(at(Expect::Version(first), change).await, KvWritten::Conflict(second));
    }
    assert_eq!(s.text_of("a").await.as_deref(), Some("2"));
    let KvWritten::Counted(third, 3) = at(Expect::Version(second), add(1)).await else { panic!() };
    assert_eq!(at(Expect::Version(third), KvChange::Delete).await, KvWritten::Deleted(true));
    assert_eq!(at(Expect::Version(third), KvChange::Delete).await, KvWritten::Conflict(0));
    assert_eq!(at(Expect::Absent, KvChange::Delete).await, KvWritten::Deleted(false));
}

pub async fn an_entry_that_has_expired_is_not_there_and_is_deleted_later(s: Subject) {
    let with_ttl = |ttl_ms| KvChange::Set { value: b"v".to_vec(), ttl_ms };
    s.write(write("short", with_ttl(1_000))).await;
    s.write(write("long", with_ttl(u64::MAX))).await;
    let expires_at = s.get("short").await.unwrap().expires_at;
    assert_eq!(expires_at, Some(START_MS + 1_000));
    assert_eq!(s.get("long").await.unwrap().expires_at, Some(START_MS + MAX_KV_TTL_MS));
    s.pass(999);
    assert!(s.get("short").await.is_some());
    s.pass(1);
    assert_eq!(s.get("short").await, None);
    assert_eq!(s.keys_by("", 10).await.0, ["long"]);
    assert_eq!(s.write(write("short", KvChange::Delete)).await, KvWritten::Deleted(false));
    assert_eq!(s.kv_bytes().await, 2 * (1 + ENTRY_BYTES) + 9, "it counts until it is deleted");
    s.broker.prune(0).await.unwrap();
    assert_eq!(s.kv_bytes().await, 1 + 4 + ENTRY_BYTES);
    // One that is set anew, with another time or without one, lives by that.
    for ttl_ms in [5_000, 0] {
        s.write(write("short", with_ttl(1_000))).await;
        s.write(write("short", with_ttl(ttl_ms))).await;
        s.pass(1_001);
        s.broker.prune(0).await.unwrap();
        assert!(s.get("short").await.is_some(), "{ttl_ms}");
    }
    // Absent for those that expect nothing.
    s.write(write("short", with_ttl(1))).await;
    s.pass(1);
    let absent = KvWrite { expect: Expect::Absent, ..write("short", with_ttl(0)) };
    assert!(matches!(s.write(absent).await, KvWritten::Stored(_)));
    // Many are deleted by one call.
    for n in 0..450 {
        s.write(write(&format!("many{n}"), with_ttl(1))).await;
    }
    s.pass(1);
    s.broker.prune(1).await.unwrap();
    assert_eq!(s.kv_bytes().await, 1 + 4 + 1 + 5 + 2 * ENTRY_BYTES);
}

pub async fn a_number_is_added_to_and_never_overflows(s: Subject) {
    let add_to = |initial, delta, ttl_ms| s.write(write("n", KvChange::Add { delta, initial, ttl_ms }));
    let counted = |answer| match answer {
        KvWritten::Counted(_, number) => number,
        other => panic!("{other:?}"),
    };
    assert_eq!(counted(add_to(40, 2, 1_000).await), 42);
    s.pass(600);
    // It keeps the time with which it began.
    assert_eq!(counted(add_to(40, -50, 1_000).await), -8);
    assert_eq!(s.text_of("n").await.as_deref(), Some("-8"));
    s.pass(400);
    assert_eq!(counted(add_to(i64::MAX, 0, 0).await), i64::MAX);
    assert_eq!(add_to(0, 1, 0).await, KvWritten::Overflow);
    assert_eq!(counted(add_to(0, i64::MIN, 0).await), -1);
    assert_eq!(counted(add_to(0, i64::MIN + 1, 0).await), i64::MIN);
    assert_eq!(add_to(0, -1, 0).await, KvWritten::Overflow);
    assert_eq!(s.text_of("n").await.as_deref(), Some("-9223372036854775808"));
    s.write(write("n", KvChange::Delete)).await;
    assert_eq!(add_to(i64::MAX, 1, 0).await, KvWritten::Overflow);
    assert_eq!(s.get("n").await, None);
    // Set by hand: exact beyond what a floating point number holds.
    s.set("n", "9007199254740993").await;
    assert_eq!(counted(add_to(0, 2, 0).await), 9_007_199_254_740_995);
    for text in ["", "+5", "05", "-0", " 5", "5 ", "5.0", "9223372036854775808", "0x5", "one"] {
        s.set("n", text).await;
        assert_eq!(add_to(0, 1, 0).await, KvWritten::NotANumber, "{text:?}");
        assert_eq!(s.text_of("n").await.as_deref(), Some(text));
    }
}

pub async fn a_late_attempt_cannot_write_over_its_successor(s: Subject) {
    s.add(new_job(1)).await;
    let first = s.claim_one().await;
    assert!(matches!(s.write(by(&first, write("cursor", set("10")))).await, KvWritten::Stored(_)));
    s.pass_served(DEFAULT_LEASE_MS + 1).await;
    // Its lease is over, and nobody took it back: it may go on.
    assert!(matches!(s.write(by(&first, write("cursor", set("20")))).await, KvWritten::Stored(_)));
    assert_eq!(s.broker.reap(10).await.unwrap().requeued, 1);
    assert_eq!(s.write(by(&first, write("cursor", set("30")))).await, KvWritten::Stale);
    let second = s.claim_one().await;
    assert!(matches!(s.write(by(&second, write("cursor", set("40")))).await, KvWritten::Stored(_)));
    for change in [set("50"), add(1), KvChange::Delete] {
        assert_eq!(s.write(by(&first, write("cursor", change))).await, KvWritten::Stale);
    }
    let unmet = KvWrite { expect: Expect::Absent, ..write("cursor", set("60")) };
    assert_eq!(s.write(by(&first, unmet)).await, KvWritten::Stale, "whatever it expects");
    assert_eq!(s.text_of("cursor").await.as_deref(), Some("40"));
}

pub async fn a_delivery_that_has_ended_or_is_anothers_writes_nothing(s: Subject) {
    s.add(new_job(1)).await;
    let delivery = s.claim_one().await;
    let of_another = KvWrite { tenant: tenant("t2"), ..by(&delivery, write("a", set("1"))) };
    assert_eq!(s.write(of_another).await, KvWritten::Stale);
    let unknown = KvDelivery { job: job_id(99), token: delivery.token.clone() };
    let of_none = KvWrite { delivery: Some(unknown), ..write("a", set("1")) };
    assert_eq!(s.write(of_none).await, KvWritten::Stale);
    s.broker.cancel(&tenant("t1"), delivery.id, true).await.unwrap();
    // It runs still, and may clean up.
    assert!(matches!(s.write(by(&delivery, write("a", set("2")))).await, KvWritten::Stored(_)));
    s.settle(&delivery, succeed("1")).await;
    assert_eq!(s.write(by(&delivery, write("a", set("3")))).await, KvWritten::Stale);
    assert_eq!(s.text_of("a").await.as_deref(), Some("2"));
}

pub async fn entries_are_listed_by_prefix_in_pages_without_gaps(s: Subject) {
    for n in [3, 1, 2, 10] {
        s.set(&format!("order/{n}"), "x").await;
    }
    for name in ["order", "order0", "orders/1", "z", "éa", "éb", "order/\u{10ffff}"] {
        s.set(name, "x").await;
    }
    let orders = ["order/1", "order/10", "order/2", "order/3", "order/\u{10ffff}"];
    for max in [1, 2, 5, 100] {
        assert_eq!(s.keys_by("order/", max).await.0, orders, "{max}");
    }
    assert_eq!(s.keys_by("é", 1).await.0, ["éa", "éb"]);
    assert_eq!(s.keys_by("nothing", 10).await, (Vec::new(), 1));
    let all = s.keys_by("", 3).await.0;
    assert_eq!(all.len(), 11);
    assert!(all.is_sorted());
    // One that goes on behind a key that was deleted meanwhile, or before the first one with the prefix.
    let after = |name: &str| KvQuery {
        tenant: tenant("t1"),
        bucket: bucket("b"),
        prefix: "order/".into(),
        after: Some(key(name)),
        max: 1,
    };
    for (name, next) in [("order/15", "order/2"), ("a", "order/1")] {
        let page = s.broker.kv_list(&after(name)).await.unwrap();
        assert_eq!(page.entries[0].0, key(next));
        assert_eq!(page.entries[0].1.value, b"x");
        assert_eq!(page.next, Some(key(next)));
    }
    assert_eq!(s.broker.kv_list(&after("order0")).await.unwrap(), KvPage::default());
}

pub async fn a_page_of_entries_ends_at_its_bytes(s: Subject) {
    let many = PAGE_BYTES / 2_000 + 10;
    for n in 0..many {
        s.set(&format!("k{n:05}"), &"x".repeat(2_000)).await;
    }
    let (keys, pages) = s.keys_by("", 10_000).await;
    assert_eq!((keys.len(), pages), (many, 2));
}

pub async fn entries_that_have_expired_fill_no_page_for_ever(s: Subject) {
    for n in 0..PAGE_SCAN + 5 {
        s.write(write(&format!("a{n:05}"), KvChange::Set { value: Vec::new(), ttl_ms: 1 })).await;
    }
    s.set("b", "x").await;
    s.pass(1);
    assert_eq!(s.keys_by("", 10).await, (vec!["b".to_owned()], 2));
}

pub async fn a_bucket_is_deleted_in_steps(s: Subject) {
    for n in 0..450 {
        s.set(&n.to_string(), "x").await;
    }
    s.write(KvWrite { bucket: bucket("other"), ..write("a", set("x")) }).await;
    s.write(KvWrite { tenant: tenant("t2"), ..write("a", set("x")) }).await;
    let named = |name: &str, entries| KvBucket { name: bucket(name), entries };
    let (owner, deleted) = (tenant("t1"), bucket("b"));
    let buckets = || s.broker.kv_buckets(&owner);
    assert_eq!(buckets().await.unwrap(), [named("b", 450), named("other", 1)]);
    let delete = |max| s.broker.kv_delete_bucket(&owner, &deleted, max);
    assert_eq!(delete(0).await.unwrap(), KvBucketDeleted { deleted: 0, has_more: true });
    assert_eq!(delete(10).await.unwrap(), KvBucketDeleted { deleted: 10, has_more: true });
    assert_eq!(delete(1_000).await.unwrap(), KvBucketDeleted { deleted: KV_STEP, has_more: true });
    assert_eq!(buckets().await.unwrap(), [named("b", 240), named("other", 1)]);
    assert_eq!(delete(KV_STEP).await.unwrap(), KvBucketDeleted { deleted: 200, has_more: true });
    assert_eq!(delete(40).await.unwrap(), KvBucketDeleted { deleted: 40, has_more: false });
    assert_eq!(delete(40).await.unwrap(), KvBucketDeleted { deleted: 0, has_more: false });
    assert_eq!(buckets().await.unwrap(), [named("other", 1)]);
    assert_eq!(s.kv_bytes().await, 2 + ENTRY_BYTES);
    assert_eq!(s.broker.kv_buckets(&tenant("t2")).await.unwrap(), [named("b", 1)]);
}

pub async fn too_many_buckets_and_too_large_values_are_refused(s: Subject) {
    let limits = limits();
    let into = |name: &str| s.write(KvWrite { bucket: bucket(name), ..write("a", set("x")) });
    for n in 0..limits.max_buckets {
        assert!(matches!(into(&n.to_string()).await, KvWritten::Stored(_)));
    }
    assert_eq!(into("more").await, KvWritten::TooManyBuckets(limits.max_buckets));
    assert!(matches!(into("0").await, KvWritten::Stored(_)), "one that is there");
    s.write(KvWrite { bucket: bucket("1"), ..write("a", KvChange::Delete) }).await;
    assert!(matches!(into("more").await, KvWritten::Stored(_)), "one that is empty is gone");
    let sized = |bytes: u64| s.write(KvWrite { bucket: bucket("0"), ..write("b", set(vec![7; bytes as usize])) });
    assert!(matches!(sized(limits.max_value_bytes).await, KvWritten::Stored(_)));
    assert_eq!(sized(limits.max_value_bytes + 1).await, KvWritten::TooLarge(limits.max_value_bytes));
}

pub async fn the_bytes_of_entries_are_counted_and_limited(s: Subject) {
    let limit = 3 * ENTRY_BYTES;
    s.broker.set_storage_limits(&tenant("t1"), StorageLimits { kv: limit, ..Default::default() }).await.unwrap();
    assert_eq!(s.broker.storage_limits(&tenant("t1")).await.unwrap().kv, limit);
    s.set("a", "").await;
    s.set("b", "").await;
    assert_eq!(s.kv_bytes().await, 2 + 2 * ENTRY_BYTES);
    assert_eq!(s.write(write("c", set(""))).await, KvWritten::StorageFull);
    let room = "x".repeat(ENTRY_BYTES as usize - 2);
    s.set("a", &room).await;
    assert_eq!(s.kv_bytes().await, limit);
    for change in [set(format!("{room}x")), add(1)] {
        assert_eq!(
            s.write(write("b", change.clone())).await,
            if change == add(1) { KvWritten::NotANumber } else { KvWritten::StorageFull }
        );
    }
    // What makes nothing larger is stored, whatever the limit.
    s.broker.set_storage_limits(&tenant("t1"), StorageLimits { kv: 1, ..Default::default() }).await.unwrap();
    s.set("a", &room).await;
    s.set("a", "").await;
    assert_eq!(s.write(write("a", KvChange::Delete)).await, KvWritten::Deleted(true));
    assert_eq!(s.kv_bytes().await, 1 + ENTRY_BYTES);
    assert!(matches!(s.write(KvWrite { tenant: tenant("t2"), ..write("a", set("x")) }).await, KvWritten::Stored(_)));
    s.broker.set_storage_limits(&tenant("t1"), StorageLimits::default()).await.unwrap();
    s.set("a", "x").await;
    assert_eq!(s.broker.stored_bytes(&tenant("t1")).await.unwrap().jobs, 0);
}

pub async fn many_that_add_to_one_number_at_once_lose_nothing(s: Subject) {
    let adds = (0..50).map(|_| s.write(write("n", add(1))));
    let mut seen: Vec<i64> = futures::future::join_all(adds)
        .await
        .into_iter()
        .map(|answer| match answer {
            KvWritten::Counted(_, number) => number,
            other => panic!("{other:?}"),
        })
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, (1..=50).collect::<Vec<_>>());
    // Of those that compare and set, each version is won by one.
    let version = s.get("n").await.unwrap().version;
    let sets = (0..10).map(|n| s.write(KvWrite { expect: Expect::Version(version), ..write("n", set(n.to_string())) }));
    let answers = futures::future::join_all(sets).await;
    assert_eq!(answers.iter().filter(|answer| matches!(answer, KvWritten::Stored(_))).count(), 1);
}
