//! Blob calls: allowed by the grants of the moment, bounded in number and bytes, charged, and nothing left of what was not finished.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use umbel_capabilities::{BlobAccess, BlobError, BlobWriter, Effective, Grants, Reach, Unavailable};
use umbel_model::{Digest, Permissions};
use umbel_sandbox::{Call, Sandbox, SandboxConfig, StopHandle};

use crate::support::{Guest, Heard, call, compile, failure, heard, run, value};

/// Blobs in memory, and what was asked of it.
#[derive(Debug, Default)]
struct Store {
    blobs: Mutex<HashMap<Digest, Vec<u8>>>,
    /// Writers that are neither finished nor dropped.
    writing: Arc<AtomicUsize>,
    reads: Mutex<Vec<Range<u64>>>,
    error: Mutex<Option<BlobError>>,
}

#[derive(Debug)]
struct Writer {
    store: Arc<Store>,
    bytes: Vec<u8>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.store.writing.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The store as attempts reach it.
#[derive(Debug, Clone)]
struct Reached(Arc<Store>);

impl Reached {
    fn check(&self) -> Result<(), BlobError> {
        self.0.error.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

#[async_trait]
impl BlobAccess for Reached {
    async fn open(&self, digest: Digest) -> Result<u64, BlobError> {
        self.check()?;
        self.0.blobs.lock().unwrap().get(&digest).map(|bytes| bytes.len() as u64).ok_or(BlobError::NotFound)
    }

    async fn read(&self, digest: Digest, range: Range<u64>) -> Result<Bytes, BlobError> {
        self.check()?;
        self.0.reads.lock().unwrap().push(range.clone());
        let blobs = self.0.blobs.lock().unwrap();
        let bytes = blobs.get(&digest).ok_or(BlobError::Deleted)?;
        Ok(Bytes::copy_from_slice(&bytes[range.start as usize..range.end as usize]))
    }

    async fn create(&self, _: Option<String>) -> Result<Box<dyn BlobWriter>, BlobError> {
        self.check()?;
        self.0.writing.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(Writer { store: self.0.clone(), bytes: Vec::new() }))
    }
}

#[async_trait]
impl BlobWriter for Writer {
    async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        tokio::task::yield_now().await;
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<Digest, BlobError> {
        let digest = Digest::of(&self.bytes);
        let bytes = std::mem::take(&mut self.bytes);
        self.store.blobs.lock().unwrap().insert(digest, bytes);
        Ok(digest)
    }
}

#[derive(Debug)]
struct Allowed(&'static str);

#[async_trait]
impl Grants for Allowed {
    async fn now(&self) -> Result<Arc<Effective>, Unavailable> {
        let list = |text: &str| Permissions::new([text.parse().unwrap()]).unwrap();
        Ok(Arc::new(Effective { operator: list("blob"), tenant: None, approved: list(self.0) }))
    }
}

const IMPORTS: &str = r#"
  (import "umbel:blob/store@0.1.0" "[static]reader.open" (func $open (param i32 i32 i32)))
  (import "umbel:blob/store@0.1.0" "[method]reader.read" (func $read (param i32 i64 i32 i32)))
  (import "umbel:blob/store@0.1.0" "[method]reader.size" (func $size (param i32) (result i64)))
  (import "umbel:blob/store@0.1.0" "[resource-drop]reader" (func $close (param i32)))
  (import "umbel:blob/store@0.1.0" "[static]writer.create" (func $create (param i32 i32 i32 i32)))
  (import "umbel:blob/store@0.1.0" "[method]writer.write" (func $write (param i32 i32 i32 i32)))
  (import "umbel:blob/store@0.1.0" "[static]writer.finish" (func $finish (param i32 i32)))
  (import "umbel:blob/store@0.1.0" "[resource-drop]writer" (func $abandon (param i32)))
"#;

/// Answers the letter of the call before if that failed: `a` for the first error, and so on.
const CHECK: &str = "(if (i32.load8_u (i32.const 3000)) (then (return (call $letter))))";
const CREATE: &str = "(call $create (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 3000))";
const OPEN: &str = "(call $open (i32.const 1200) (i32.const 71) (i32.const 3000))";

/// The text of the digest of `hello`.
fn hello() -> String {
    Digest::of(b"hello").to_string()
}

fn guest(body: &str) -> Guest {
    let items = format!(
        r#"(data (i32.const 1200) "{}") (data (i32.const 1300) "\"?\"") (data (i32.const 1400) "hello")
        (global $handle (mut i32) (i32.const 0))
        (func $letter (result i32)
            (i32.store8 (i32.const 1301) (select (i32.add (i32.const 97) (i32.load8_u (i32.const 3008))) (i32.const 107)
                (i32.load8_u (i32.const 3000))))
            (call $ok (i32.const 1300) (i32.const 3)))
        (func $keep (global.set $handle (i32.load (i32.const 3008))))"#,
        hello()
    );
    Guest { imports: IMPORTS, items, ..Guest::running(format!("{body} (return (call $letter))")) }
}

fn times(count: u32, body: &str) -> String {
    format!(
        "(loop $again {body} (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $again (i32.lt_u (local.get $i) (i32.const {count}))))"
    )
}

fn write(at: u32, bytes: u32) -> String {
    format!("(call $write (global.get $handle) (i32.const {at}) (i32.const {bytes}) (i32.const 3000)) {CHECK}")
}

const FINISH: &str = "(call $finish (global.get $handle) (i32.const 3000))";

fn reaching(store: &Arc<Store>, permission: &'static str) -> Call {
    let (grants, blobs) = (Arc::new(Allowed(permission)), Arc::new(Reached(store.clone())));
    Call { reach: Reach { grants, blobs, ..Reach::default() }, ..call("{}") }
}

fn with_hello() -> Arc<Store> {
    let store = Arc::new(Store::default());
    store.blobs.lock().unwrap().insert(Digest::of(b"hello"), b"hello".to_vec());
    store
}

#[tokio::test]
async fn a_guest_writes_a_blob_and_reads_it_in_ranges() {
    let store = Arc::new(Store::default());
    let body = format!(
        "{CREATE} {CHECK} (call $keep) {} {} {FINISH} {CHECK} {OPEN} {CHECK} (call $keep)
         (if (i64.ne (call $size (global.get $handle)) (i64.const 5)) (then unreachable))
         (call $read (global.get $handle) (i64.const 1) (i32.const 3) (i32.const 3000)) {CHECK}
         (if (i32.ne (i32.load (i32.const 3012)) (i32.const 3)) (then unreachable))
         (if (i32.ne (i32.load8_u (i32.load (i32.const 3008))) (i32.const 101)) (then unreachable))
         (call $read (global.get $handle) (i64.const 4) (i32.const -1) (i32.const 3000)) {CHECK}
         (if (i32.ne (i32.load (i32.const 3012)) (i32.const 1)) (then unreachable))
         (call $read (global.get $handle) (i64.const -1) (i32.const 9) (i32.const 3000)) {CHECK}
         (if (i32.ne (i32.load (i32.const 3012)) (i32.const 0)) (then unreachable))
         (call $close (global.get $handle))",
        write(1400, 2),
        write(1402, 3)
    );
    let call = reaching(&store, "blob");
    let meter = call.reach.meter.clone();
    let attempt = run(&guest(&body).prepare().await, call).await;
    assert_eq!(value(&attempt), "\"k\"");
    assert_eq!(*store.reads.lock().unwrap(), [1..4, 4..5]);
    assert_eq!((meter.read().blob_bytes_written, meter.read().blob_bytes_read), (5, 4));
    assert_eq!(store.writing.load(Ordering::SeqCst), 0);
    assert!(attempt.usage.fuel > 5 * 50_000, "its calls are charged: {}", attempt.usage.fuel);
}

#[tokio::test]
async fn what_is_not_allowed_is_denied_and_the_log_names_the_permission_once() {
    for (permission, body, missing) in [
        ("blob read", times(3, CREATE), "`blob`"),
        ("kv a", times(3, OPEN), "`blob read`"),
        ("kv a", times(3, CREATE), "`blob`"),
    ] {
        let (attempt, host) = heard(&guest(&body).prepare().await, reaching(&with_hello(), permission)).await;
        assert_eq!(value(&attempt), "\"a\"", "{permission}");
        let Heard { lines, .. } = &*host;
        let lines = lines.lock().unwrap();
        let [line] = &lines[..] else { panic!("{lines:?}") };
        assert!(line.context == "umbel" && line.message.contains(missing), "{}", line.message);
    }
    assert_eq!(value(&run(&guest(OPEN).prepare().await, reaching(&with_hello(), "blob read")).await), "\"k\"");
    assert_eq!(value(&run(&guest(OPEN).prepare().await, call("{}")).await), "\"a\"", "nothing is granted by default");
}

#[tokio::test]
async fn errors_of_the_store_reach_the_guest_by_their_names() {
    for (error, letter) in [
        (BlobError::Invalid("so".into()), "b"),
        (BlobError::NotFound, "c"),
        (BlobError::Deleted, "d"),
        (BlobError::TooLarge(7), "e"),
        (BlobError::Quota("full".into()), "f"),
        (BlobError::unreachable(), "h"),
    ] {
        let store = Arc::new(Store { error: Mutex::new(Some(error)), ..Store::default() });
        let attempt = run(&guest(CREATE).prepare().await, reaching(&store, "blob")).await;
        assert_eq!(value(&attempt), format!("\"{letter}\""));
    }
    let not_a_digest = "(call $open (i32.const 1201) (i32.const 70) (i32.const 3000))";
    assert_eq!(value(&run(&guest(not_a_digest).prepare().await, reaching(&with_hello(), "blob")).await), "\"b\"");
}

#[tokio::test]
async fn readers_and_writers_that_are_open_are_bounded_and_closing_one_makes_room() {
    let open_to_the_end = guest(&times(20, &format!("{OPEN} {CHECK}"))).prepare().await;
    assert_eq!(value(&run(&open_to_the_end, reaching(&with_hello(), "blob read")).await), "\"g\"");
    let closing = guest(&times(100, &format!("{OPEN} {CHECK} (call $close (i32.load (i32.const 3008)))")));
    assert_eq!(value(&run(&closing.prepare().await, reaching(&with_hello(), "blob read")).await), "\"k\"");
    // Each writer takes memory of the host, which is the guest's.
    let store = Arc::new(Store::default());
    let writers = guest(&times(15, &format!("{CREATE} {CHECK}"))).prepare().await;
    assert_eq!(value(&run(&writers, Call { memory_bytes: 4 << 20, ..reaching(&store, "blob") }).await), "\"g\"");
    assert_eq!(store.writing.load(Ordering::SeqCst), 0, "what was not finished is dropped");
    // In all, however they end.
    let many = guest(&times(65, &format!("{CREATE} {CHECK} (call $abandon (i32.load (i32.const 3008)))")));
    assert_eq!(value(&run(&many.prepare().await, reaching(&store, "blob")).await), "\"g\"");
    assert!(store.blobs.lock().unwrap().is_empty());
}

#[tokio::test]
async fn bytes_are_bounded_for_each_call_and_for_the_attempt_and_charged() {
    let large =
        |body: String| Guest { memory: "40", ..guest(&format!("{CREATE} {CHECK} (call $keep) {body} {FINISH}")) };
    let store = Arc::new(Store::default());
    let too_much = large(write(0, (1 << 20) + 1)).prepare().await;
    assert_eq!(value(&run(&too_much, reaching(&store, "blob")).await), "\"b\"");
    let cheap = Call { fuel: 500_000, ..reaching(&store, "blob") };
    assert_eq!(failure(&run(&large(write(0, 1 << 20)).prepare().await, cheap).await).kind, "out_of_fuel");
    assert_eq!((store.blobs.lock().unwrap().len(), store.writing.load(Ordering::SeqCst)), (0, 0));

    let mut config = SandboxConfig { slots: 1, ..SandboxConfig::default() };
    config.blob_calls.written_bytes = 10 << 20;
    let sandbox = Sandbox::new(config).unwrap();
    for (calls, letter) in [(10, "k"), (11, "g")] {
        let compiled = compile(&large(times(calls, &write(0, 1 << 20))).build()).await.unwrap();
        let prepared = sandbox.load(compiled.into()).unwrap();
        let store = Arc::new(Store::default());
        let attempt =
            sandbox.run(&prepared, reaching(&store, "blob"), Arc::new(Heard::default()), &StopHandle::new()).await;
        assert_eq!(value(&attempt), format!("\"{letter}\""), "{calls}");
        assert_eq!(store.blobs.lock().unwrap().len(), usize::from(calls == 10));
    }
}

#[tokio::test]
async fn a_writer_that_failed_writes_no_more_and_a_blob_that_is_deleted_while_it_is_read_is_named() {
    let body = format!(
        "{CREATE} {CHECK} (call $keep)
         (call $write (global.get $handle) (i32.const 0) (i32.const 1048577) (i32.const 3000))
         (call $write (global.get $handle) (i32.const 1400) (i32.const 5) (i32.const 3000))
         {FINISH}"
    );
    let store = with_hello();
    let guest_of = |body: &str| Guest { memory: "40", ..guest(body) };
    assert_eq!(value(&run(&guest_of(&body).prepare().await, reaching(&store, "blob")).await), "\"b\"");
    assert_eq!(store.writing.load(Ordering::SeqCst), 0);

    /// Loses each blob when it is opened.
    #[derive(Debug)]
    struct Losing(Reached);
    #[async_trait]
    impl BlobAccess for Losing {
        async fn open(&self, digest: Digest) -> Result<u64, BlobError> {
            let size = self.0.open(digest).await;
            self.0.0.blobs.lock().unwrap().clear();
            size
        }
        async fn read(&self, digest: Digest, range: Range<u64>) -> Result<Bytes, BlobError> {
            self.0.read(digest, range).await
        }
        async fn create(&self, _: Option<String>) -> Result<Box<dyn BlobWriter>, BlobError> {
            unreachable!()
        }
    }
    let body = format!(
        "{OPEN} {CHECK} (call $keep) (call $read (global.get $handle) (i64.const 0) (i32.const 3) (i32.const 3000))"
    );
    let grants = Arc::new(Allowed("blob read"));
    let reach = Reach { grants, blobs: Arc::new(Losing(Reached(store))), ..Reach::default() };
    assert_eq!(value(&run(&guest(&body).prepare().await, Call { reach, ..call("{}") }).await), "\"d\"");
}
