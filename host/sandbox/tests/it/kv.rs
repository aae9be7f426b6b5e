//! Key-value calls: allowed by the grants of the moment, counted, charged, bounded, and never a thread that waits.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use umbel_capabilities::{
    Effective, Grants, KeyValue, KvError, Reach, Unavailable,
    kv::{At, Entry, EntryPage},
};
use umbel_model::{BucketName, KvKey, Outcome, Permissions};
use umbel_sandbox::{Call, KvCallLimits, Sandbox, SandboxConfig, StopHandle};

use crate::support::{Guest, Heard, call, failure, heard, run, value};

/// Counts, answers as it was told to, and waits for ever if it was told to.
#[derive(Debug, Default)]
struct Store {
    sum: AtomicU64,
    written: Mutex<Vec<(At, Vec<u8>, u64)>>,
    error: Mutex<Option<KvError>>,
    hangs: bool,
    /// Narrowed when it was called so often.
    revoked_after: Option<u64>,
}

/// Allows `kv b`, and nothing when the store says so.
#[derive(Debug)]
struct Allowed(Arc<Store>, &'static str);

#[async_trait]
impl Grants for Allowed {
    async fn now(&self) -> Result<Arc<Effective>, Unavailable> {
        let is_revoked = self.0.revoked_after.is_some_and(|calls| self.0.sum.load(Ordering::SeqCst) >= calls);
        let list = |text: &str| Permissions::new([text.parse().unwrap()]).unwrap();
        let tenant = is_revoked.then(Permissions::default);
        Ok(Arc::new(Effective { operator: list("kv *"), tenant, approved: list(self.1) }))
    }
}

#[async_trait]
impl KeyValue for Store {
    async fn get(&self, _: BucketName, keys: Vec<KvKey>) -> Result<Vec<Option<Entry>>, KvError> {
        Ok(keys
            .into_iter()
            .map(|key| Some(Entry { version: 1, expires_at: None, value: vec![b'v'; key.as_str().len()] }))
            .collect())
    }

    async fn set(&self, at: At, value: Vec<u8>, ttl_ms: u64) -> Result<u64, KvError> {
        self.written.lock().unwrap().push((at, value, ttl_ms));
        Ok(7)
    }

    async fn add(&self, _: At, delta: i64, _: i64, _: u64) -> Result<i64, KvError> {
        if self.hangs {
            std::future::pending::<()>().await;
        }
        if let Some(error) = self.error.lock().unwrap().clone() {
            return Err(error);
        }
        // Another thread's answer.
        tokio::task::yield_now().await;
        Ok(self.sum.fetch_add(delta as u64, Ordering::SeqCst) as i64 + delta)
    }

    async fn delete(&self, _: At) -> Result<bool, KvError> {
        Ok(true)
    }

    async fn list(&self, _: BucketName, _: String, _: Option<KvKey>, _: u32) -> Result<EntryPage, KvError> {
        Ok(EntryPage::default())
    }
}

const IMPORTS: &str = r#"
  (import "umbel:kv/store@0.1.0" "increment"
    (func $increment (param i32 i32 i32 i32 i64 i64 i32 i64 i32)))
  (import "umbel:kv/store@0.1.0" "set"
    (func $set (param i32 i32 i32 i32 i32 i32 i32 i64 i32 i64 i32)))
"#;

/// Adds 1 to the key `k` of the bucket `b`; the answer is at 3000.
const INCREMENT: &str = "(call $increment (i32.const 1200) (i32.const 1) (i32.const 1201) (i32.const 1)
    (i64.const 1) (i64.const 0) (i32.const 0) (i64.const 0) (i32.const 3000))";

/// Does `body` so often, and answers a letter: `k` when the last call went well, otherwise `a` for the first error, and so on.
fn guest(times: u32, body: &str) -> Guest {
    let run = format!(
        "(loop $again {body}
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $again (i32.lt_u (local.get $i) (i32.const {times}))))
         (i32.store8 (i32.const 1301) (select
            (i32.add (i32.const 97) (i32.load8_u (i32.const 3008))) (i32.const 107) (i32.load8_u (i32.const 3000))))
         (return (call $ok (i32.const 1300) (i32.const 3)))"
    );
    let items = r#"(data (i32.const 1200) "bk") (data (i32.const 1300) "\"?\"")"#.into();
    Guest { imports: IMPORTS, items, ..Guest::running(run) }
}

fn reaching(store: &Arc<Store>, permission: &'static str) -> Call {
    let reach = Reach { grants: Arc::new(Allowed(store.clone(), permission)), kv: store.clone(), ..Reach::default() };
    Call { reach, ..call("{}") }
}

#[tokio::test]
async fn a_guest_counts_in_a_bucket_that_it_may_use() {
    let store = Arc::new(Store::default());
    let call = reaching(&store, "kv b");
    let meter = call.reach.meter.clone();
    let attempt = run(&guest(20, INCREMENT).prepare().await, call).await;
    assert_eq!(value(&attempt), "\"k\"");
    assert_eq!((store.sum.load(Ordering::SeqCst), meter.read().kv_operations), (20, 20));
    assert!(attempt.usage.fuel > 20 * 1_000, "each call is charged: {}", attempt.usage.fuel);
}

#[tokio::test]
async fn what_is_not_allowed_is_denied_and_the_log_names_the_permission_once() {
    for permission in ["kv b read", "kv a"] {
        let store = Arc::new(Store::default());
        let (attempt, host) = heard(&guest(20, INCREMENT).prepare().await, reaching(&store, permission)).await;
        assert_eq!(value(&attempt), "\"a\"", "{permission}");
        assert_eq!(store.sum.load(Ordering::SeqCst), 0);
        let Heard { lines, .. } = &*host;
        let lines = lines.lock().unwrap();
        let [line] = &lines[..] else { panic!("{lines:?}") };
        assert!(line.context == "umbel" && line.message.contains("`kv b`"), "{}", line.message);
    }
    // Nothing is granted by default.
    let attempt = run(&guest(1, INCREMENT).prepare().await, call("{}")).await;
    assert_eq!(value(&attempt), "\"a\"");
}

#[tokio::test]
async fn a_permission_that_is_taken_away_while_a_guest_runs_is_gone_at_its_next_call() {
    let store = Arc::new(Store { revoked_after: Some(3), ..Store::default() });
    let attempt = run(&guest(20, INCREMENT).prepare().await, reaching(&store, "kv b")).await;
    assert_eq!((value(&attempt), store.sum.load(Ordering::SeqCst)), ("\"a\"", 3));
}

#[tokio::test]
async fn errors_of_the_store_reach_the_guest_by_their_names() {
    for (error, letter) in [
        (KvError::Conflict(3), "c"),
        (KvError::TooLarge(1), "d"),
        (KvError::NotANumber, "e"),
        (KvError::Overflow, "f"),
        (KvError::Quota("full".into()), "g"),
        (KvError::Stale, "h"),
        (KvError::unreachable(), "j"),
    ] {
        let store = Arc::new(Store { error: Mutex::new(Some(error)), ..Store::default() });
        let attempt = run(&guest(1, INCREMENT).prepare().await, reaching(&store, "kv *")).await;
        assert_eq!(value(&attempt), format!("\"{letter}\""));
    }
}

#[tokio::test]
async fn a_flood_of_calls_ends_at_its_limit_or_with_the_fuel() {
    let kv_calls = KvCallLimits { calls: 10, ..KvCallLimits::default() };
    let config = SandboxConfig { slots: 1, kv_calls, ..SandboxConfig::default() };
    let sandbox = Sandbox::new(config).unwrap();
    let compiled = crate::support::compile(&guest(20, INCREMENT).build()).await.unwrap();
    let prepared = sandbox.load(compiled.into()).unwrap();
    let store = Arc::new(Store::default());
    let host = Arc::new(Heard::default());
    let attempt = sandbox.run(&prepared, reaching(&store, "kv b"), host, &StopHandle::new()).await;
    assert_eq!((value(&attempt), store.sum.load(Ordering::SeqCst)), ("\"i\"", 10));

    let endless = guest(u32::MAX, INCREMENT).prepare().await;
    let attempt = run(&endless, Call { fuel: 5_000_000, ..reaching(&store, "kv b") }).await;
    assert_eq!(failure(&attempt).kind, "out_of_fuel");
}

#[tokio::test]
async fn a_value_is_handed_over_and_one_that_is_too_large_is_not_copied() {
    let set = |at: u32, bytes: u32| {
        format!(
            "(call $set (i32.const 1200) (i32.const 1) (i32.const 1201) (i32.const 1) (i32.const {at}) (i32.const {bytes})
                (i32.const 1) (i64.const 5000) (i32.const 2) (i64.const 3) (i32.const 3000))"
        )
    };
    let store = Arc::new(Store::default());
    let attempt = run(&guest(1, &set(1130, 7)).prepare().await, reaching(&store, "kv b")).await;
    assert_eq!(value(&attempt), "\"k\"");
    let (at, bytes, ttl_ms) = store.written.lock().unwrap().pop().unwrap();
    assert_eq!((at.key.as_str(), &bytes[..], ttl_ms), ("k", &b"message"[..], 5_000));
    assert_eq!(at.expect, umbel_capabilities::kv::Expected::Version(3));

    let large = Guest { memory: "40", ..guest(1, &set(0, (1 << 20) + 1)) };
    let attempt = run(&large.prepare().await, reaching(&store, "kv b")).await;
    assert_eq!((value(&attempt), store.written.lock().unwrap().len()), ("\"d\"", 0));
    let cheap = Call { fuel: 500_000, ..reaching(&store, "kv b") };
    assert_eq!(failure(&run(&large.prepare().await, cheap).await).kind, "out_of_fuel", "its bytes are charged");
}

#[tokio::test]
async fn a_call_that_waits_ends_with_the_attempt_and_holds_no_thread() {
    let store = Arc::new(Store { hangs: true, ..Store::default() });
    let waiting = guest(1, INCREMENT).prepare().await;
    let begun = Instant::now();
    // On one thread: many wait at once.
    let calls = (0..8).map(|_| run(&waiting, Call { time_limit_ms: 200, ..reaching(&store, "kv b") }));
    for attempt in futures::future::join_all(calls).await {
        assert_eq!(failure(&attempt).kind, "deadline");
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
    let stop = StopHandle::new();
    let stopping = crate::support::SANDBOX.run(&waiting, reaching(&store, "kv b"), Arc::new(Heard::default()), &stop);
    let (attempt, ()) = tokio::join!(stopping, async {
        tokio::task::yield_now().await;
        stop.stop(umbel_sandbox::Stop::Cancel);
    });
    assert!(matches!(attempt.outcome, Outcome::Revoked), "{:?}", attempt.outcome);
}

/// As much of a draft as this test calls; `CURSOR` is the type of its cursors.
const DRAFT: &str = "interface store {
    variant error { no-such-store, access-denied, other(string) }
    record key-response { keys: list<string>, cursor: option<CURSOR> }
    open: func(identifier: string) -> result<bucket, error>;
    resource bucket {
        get: func(key: string) -> result<option<list<u8>>, error>;
        set: func(key: string, value: list<u8>) -> result<_, error>;
        exists: func(key: string) -> result<bool, error>;
        list-keys: func(cursor: option<CURSOR>) -> result<key-response, error>;
    }
}";

/// A guest that opens the bucket `b`, sets `k`, reads it and lists the keys. Its letter is `k`, or where it failed.
fn guest_of_draft(version: &str, cursor: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let deps = folder.path().join("deps");
    std::fs::create_dir(&deps).unwrap();
    let package = format!("package wasi:keyvalue@{version};\n{}", DRAFT.replace("CURSOR", cursor));
    std::fs::write(deps.join("keyvalue.wit"), package).unwrap();
    let task = crate::worlds::WASI.split("world module").next().unwrap().to_owned();
    let world = format!("{task} world module {{ import wasi:keyvalue/store@{version}; export guest; }}");
    std::fs::write(folder.path().join("task.wit"), world).unwrap();
    let cursor = if cursor == "u64" { "i64" } else { "i32 i32" };
    let none = if cursor == "i64" { "(i64.const 0)" } else { "(i32.const 0) (i32.const 0)" };
    let imports = format!(
        r#"(import "wasi:keyvalue/store@{version}" "open" (func $open (param i32 i32 i32)))
           (import "wasi:keyvalue/store@{version}" "[method]bucket.set" (func $set (param i32 i32 i32 i32 i32 i32)))
           (import "wasi:keyvalue/store@{version}" "[method]bucket.get" (func $get (param i32 i32 i32 i32)))
           (import "wasi:keyvalue/store@{version}" "[method]bucket.exists" (func $exists (param i32 i32 i32 i32)))
           (import "wasi:keyvalue/store@{version}" "[method]bucket.list-keys" (func $list (param i32 i32 {cursor} i32)))"#
    );
    let failed = |letter: char| {
        format!(
            "(if (i32.load8_u (i32.const 3000)) (then
                (i32.store8 (i32.const 1301) (i32.const {})) (return (call $ok (i32.const 1300) (i32.const 3)))))",
            letter as u32
        )
    };
    let run = [
        "(call $open (i32.const 1200) (i32.const 1) (i32.const 3000))".into(),
        failed('o'),
        "(local.set $i (i32.load (i32.const 3004)))
         (call $set (local.get $i) (i32.const 1201) (i32.const 1) (i32.const 1130) (i32.const 7) (i32.const 3000))"
            .into(),
        failed('s'),
        "(call $get (local.get $i) (i32.const 1201) (i32.const 1) (i32.const 3000))".into(),
        failed('g'),
        "(call $exists (local.get $i) (i32.const 1201) (i32.const 1) (i32.const 3000))".into(),
        failed('e'),
        format!("(call $list (local.get $i) (i32.const 0) {none} (i32.const 3000))"),
        failed('l'),
        "(i32.store8 (i32.const 1301) (i32.const 107)) (return (call $ok (i32.const 1300) (i32.const 3)))".into(),
    ]
    .concat();
    let items = r#"(data (i32.const 1200) "bk") (data (i32.const 1300) "\"?\"")"#.into();
    let text = Guest { items, ..Guest::running(run) }.wat();
    let mut module = wat::parse_str(text.replacen("(module", &format!("(module {imports}"), 1)).unwrap();
    crate::support::embed_from(&mut module, folder.path().into());
    module
}

#[tokio::test]
async fn a_guest_of_a_draft_of_wasi_keyvalue_has_the_same_store_and_permissions() {
    for (version, cursor) in [("0.2.0-draft", "u64"), ("0.2.0-draft2", "string")] {
        let prepared = crate::support::prepare(&guest_of_draft(version, cursor)).await;
        let store = Arc::new(Store::default());
        let call = reaching(&store, "kv b");
        let meter = call.reach.meter.clone();
        assert_eq!(value(&run(&prepared, call).await), "\"k\"", "{version}");
        assert_eq!(store.written.lock().unwrap().pop().unwrap().1, b"message");
        assert_eq!(meter.read().kv_operations, 5);
        assert_eq!(value(&run(&prepared, reaching(&store, "kv a")).await), "\"o\"");
        assert_eq!(value(&run(&prepared, reaching(&store, "kv b read")).await), "\"s\"");
    }
}
