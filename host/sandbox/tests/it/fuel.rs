//! The fuel of host calls: each has its price, and so has each byte that it moves, whatever its direction.

use std::{fs, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use umbel_capabilities::{
    Effective, Grants, KeyValue, KvError, Reach, Unavailable,
    kv::{At, Entry, EntryPage},
};
use umbel_model::{BucketName, KvKey, Permissions};
use umbel_sandbox::{AttemptInfo, Call, SandboxConfig};

use crate::support::{Guest, call, embed_world, prepare, run, value};

/// Allows the bucket `b`.
#[derive(Debug)]
struct Allowed;

#[async_trait]
impl Grants for Allowed {
    async fn now(&self) -> Result<Arc<Effective>, Unavailable> {
        let list = || Permissions::new(["kv b".parse().unwrap()]).unwrap();
        Ok(Arc::new(Effective { operator: list(), tenant: None, approved: list() }))
    }
}

/// Has entries of so many bytes.
#[derive(Debug)]
struct Store(usize);

impl Store {
    fn entry(&self) -> Entry {
        Entry { version: 1, expires_at: None, value: vec![b'v'; self.0] }
    }
}

#[async_trait]
impl KeyValue for Store {
    async fn get(&self, _: BucketName, keys: Vec<KvKey>) -> Result<Vec<Option<Entry>>, KvError> {
        Ok(keys.iter().map(|_| Some(self.entry())).collect())
    }

    async fn set(&self, _: At, _: Vec<u8>, _: u64) -> Result<u64, KvError> {
        Ok(1)
    }

    async fn add(&self, _: At, delta: i64, _: i64, _: u64) -> Result<i64, KvError> {
        Ok(delta)
    }

    async fn delete(&self, _: At) -> Result<bool, KvError> {
        Ok(true)
    }

    async fn list(&self, _: BucketName, _: String, _: Option<KvKey>, _: u32) -> Result<EntryPage, KvError> {
        Ok(EntryPage { entries: vec![(KvKey::new("k").unwrap(), self.entry())], next: None })
    }
}

const IMPORTS: &str = r#"
  (import "umbel:task/context@0.1.0" "progress" (func $progress (param i64 i64 i32 i32)))
  (import "umbel:task/context@0.1.0" "current" (func $current (param i32)))
  (import "umbel:task/context@0.1.0" "should-stop" (func $should_stop (result i32)))
  (import "umbel:task/context@0.1.0" "remaining-ms" (func $remaining (result i64)))
  (import "umbel:task/custom-state@0.1.0" "update" (func $update (param i32 i32 i32 i32 i32)))
  (import "umbel:task/canvas@0.1.0" "submit" (func $submit (param i32 i32 i32)))
  (import "umbel:task/canvas@0.1.0" "replace" (func $replace (param i32 i32 i32)))
  (import "umbel:task/canvas@0.1.0" "add-to-group" (func $add_to_group (param i32 i32 i32)))
  (import "umbel:task/canvas@0.1.0" "place" (func $place (param i32)))
  (import "wasi:logging/logging@0.1.0-draft" "log" (func $log (param i32 i32 i32 i32 i32)))
  (import "umbel:kv/store@0.1.0" "get" (func $kv_get (param i32 i32 i32 i32 i32)))
  (import "umbel:kv/store@0.1.0" "set" (func $kv_set (param i32 i32 i32 i32 i32 i32 i32 i64 i32 i64 i32)))
  (import "umbel:kv/store@0.1.0" "increment" (func $kv_add (param i32 i32 i32 i32 i64 i64 i32 i64 i32)))
  (import "umbel:kv/store@0.1.0" "delete" (func $kv_delete (param i32 i32 i32 i32 i32 i64 i32)))
  (import "umbel:kv/store@0.1.0" "list" (func $kv_list (param i32 i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "wasi:random/random@0.2.0" "get-random-bytes" (func $random (param i64 i32)))
  (import "wasi:clocks/monotonic-clock@0.2.0" "now" (func $now (result i64)))
  (import "wasi:cli/stdout@0.2.0" "get-stdout" (func $stdout (result i32)))
  (import "wasi:io/streams@0.2.0" "[method]output-stream.write" (func $write (param i32 i32 i32 i32)))
  (import "wasi:http/types@0.2.0" "[constructor]fields" (func $fields (result i32)))
  (import "wasi:http/types@0.2.0" "[method]fields.append" (func $append (param i32 i32 i32 i32 i32 i32)))
  (import "wasi:http/types@0.2.0" "[method]fields.entries" (func $entries (param i32 i32)))
  (import "wasi:http/types@0.2.0" "[method]fields.clone" (func $clone (param i32) (result i32)))
  (import "wasi:http/types@0.2.0" "[constructor]outgoing-request" (func $request (param i32) (result i32)))
  (import "wasi:http/types@0.2.0" "[method]outgoing-request.set-path-with-query"
    (func $set_path (param i32 i32 i32 i32) (result i32)))
  (import "wasi:http/types@0.2.0" "[method]outgoing-request.path-with-query" (func $path (param i32 i32)))
  (import "wasi:http/types@0.2.0" "[method]outgoing-request.set-authority"
    (func $set_authority (param i32 i32 i32 i32) (result i32)))
  (import "wasi:http/types@0.2.0" "[method]outgoing-request.authority" (func $authority (param i32 i32)))
  (import "wasi:http/outgoing-handler@0.2.0" "handle" (func $handle (param i32 i32 i32 i32)))
"#;

/// A text of the guest: what it was given, without the quotes.
const TEXT: &str = "(i32.add (local.get $args) (i32.const 1)) (i32.sub (local.get $args_len) (i32.const 2))";
const BUCKET: &str = "(i32.const 1200) (i32.const 1)";
const KEY: &str = "(i32.const 1201) (i32.const 1)";
const NAME: &str = "(i32.const 1202) (i32.const 3)";
/// Where answers go.
const TO: &str = "(i32.const 3000)";

/// How many times a byte is moved, and at which price.
enum Bytes {
    None,
    Once,
    /// By two calls: what the first one took the second one gives back, or copies.
    Twice,
    /// As JSON that the host reads.
    Read,
}

/// The calls, some with one that goes before.
fn calls() -> Vec<(&'static str, Bytes, String)> {
    let fields = format!("(local.set $i (call $fields)) (call $append (local.get $i) {NAME} {TEXT} {TO})");
    let path = format!(
        "(local.set $i (call $request (call $fields))) (drop (call $set_path (local.get $i) (i32.const 1) {TEXT}))"
    );
    let host = TEXT
        .replace("(i32.const 1)", "(i32.const 2)")
        .replace("(i32.sub (local.get $args_len) (i32.const 2))", "(i32.sub (local.get $args_len) (i32.const 3))");
    let authority = path.replace("$set_path", "$set_authority").replace(TEXT, &host);
    vec![
        ("progress", Bytes::Once, format!("(call $progress (i64.const 1) (i64.const 2) {TEXT})")),
        ("current", Bytes::Once, format!("(call $current {TO})")),
        ("should-stop", Bytes::None, "(drop (call $should_stop))".into()),
        ("remaining-ms", Bytes::None, "(drop (call $remaining))".into()),
        ("update", Bytes::Read, format!("(call $update {NAME} (i32.const 1) (local.get $args) (local.get $args_len))")),
        ("submit", Bytes::Read, format!("(call $submit {TEXT} {TO})")),
        ("replace", Bytes::Read, format!("(call $replace {TEXT} {TO})")),
        ("add-to-group", Bytes::Read, format!("(call $add_to_group {TEXT} {TO})")),
        ("place", Bytes::None, format!("(call $place {TO})")),
        ("log", Bytes::Once, format!("(call $log (i32.const 2) {NAME} {TEXT})")),
        ("kv get", Bytes::Once, format!("(call $kv_get {BUCKET} (i32.const 1212) (i32.const 1) {TO})")),
        (
            "kv set",
            Bytes::Once,
            format!(
                "(call $kv_set {BUCKET} {KEY} {TEXT} (i32.const 0) (i64.const 0) (i32.const 0) (i64.const 0) {TO})"
            ),
        ),
        (
            "kv increment",
            Bytes::None,
            format!("(call $kv_add {BUCKET} {KEY} (i64.const 1) (i64.const 0) (i32.const 0) (i64.const 0) {TO})"),
        ),
        ("kv delete", Bytes::None, format!("(call $kv_delete {BUCKET} {KEY} (i32.const 0) (i64.const 0) {TO})")),
        (
            "kv list",
            Bytes::Once,
            format!("(call $kv_list {BUCKET} {KEY} (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 9) {TO})"),
        ),
        ("random", Bytes::Once, format!("(call $random (i64.extend_i32_u (local.get $args_len)) {TO})")),
        ("now", Bytes::None, "(drop (call $now))".into()),
        ("write", Bytes::Once, format!("(call $write (call $stdout) {TEXT} {TO})")),
        ("append", Bytes::Once, fields.clone()),
        ("entries", Bytes::Twice, format!("{fields} (call $entries (local.get $i) {TO})")),
        ("clone", Bytes::Twice, format!("{fields} (drop (call $clone (local.get $i)))")),
        ("set-path", Bytes::Once, path.clone()),
        ("path", Bytes::Twice, format!("{path} (call $path (local.get $i) {TO})")),
        ("set-authority", Bytes::Once, authority.clone()),
        ("authority", Bytes::Twice, format!("{authority} (call $authority (local.get $i) {TO})")),
        ("handle", Bytes::None, format!("{path} (call $handle (local.get $i) (i32.const 0) (i32.const 0) {TO})")),
    ]
}

/// The module `body` of a world with all that it imports.
async fn guest(body: &str) -> umbel_sandbox::Prepared {
    let folder = tempfile::tempdir().unwrap();
    let wit = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../wit");
    fs::create_dir(folder.path().join("deps")).unwrap();
    for file in fs::read_dir(wit.join("deps")).unwrap() {
        let file = file.unwrap();
        let text = fs::read_to_string(file.path()).unwrap();
        let getters = "resource outgoing-request {\n path-with-query: func() -> option<string>;\n \
                       authority: func() -> option<string>;\n";
        let text = text.replace("resource outgoing-request {", getters);
        fs::write(folder.path().join("deps").join(file.file_name()), text).unwrap();
    }
    let random = "package wasi:random@0.2.0; interface random { get-random-bytes: func(len: u64) -> list<u8>; }";
    let cli = "package wasi:cli@0.2.0;
        interface stdout { use wasi:io/streams@0.2.0.{output-stream}; get-stdout: func() -> output-stream; }";
    fs::write(folder.path().join("deps/random.wit"), random).unwrap();
    fs::write(folder.path().join("deps/cli.wit"), cli).unwrap();
    let world = "world all {
        include module;
        import wasi:http/types@0.2.0; import wasi:http/outgoing-handler@0.2.0; import wasi:random/random@0.2.0;
        import wasi:cli/stdout@0.2.0;
    }";
    let task = fs::read_to_string(wit.join("task.wit")).unwrap();
    fs::write(folder.path().join("task.wit"), format!("{task}\n{world}")).unwrap();
    let items = r#"(data (i32.const 1200) "bkabc") (data (i32.const 1212) "\b1\04\00\00\01\00\00\00")"#;
    let run = format!("{body} (return (call $ok (i32.const 1110) (i32.const 2)))");
    let guest = Guest { imports: IMPORTS, items: items.into(), ..Guest::running(run) };
    let mut module = wat::parse_str(guest.wat()).unwrap();
    embed_world(&mut module, folder.path().into(), "all");
    prepare(&module).await
}

/// The fuel of an attempt that moves so many bytes.
async fn fuel(prepared: &umbel_sandbox::Prepared, bytes: usize) -> u64 {
    let reach = Reach { grants: Arc::new(Allowed), kv: Arc::new(Store(bytes)), ..Reach::default() };
    let text = format!("\"/{}\"", "x".repeat(bytes));
    let info = AttemptInfo { job_id: "j".repeat(bytes), ..call("").info };
    let attempt = run(prepared, Call { reach, info, ..call(&text) }).await;
    assert_eq!(value(&attempt), "{}");
    attempt.usage.fuel
}

#[tokio::test]
async fn each_host_call_is_charged_and_so_is_each_byte_that_it_moves() {
    let prices = SandboxConfig::default();
    let (few, many) = (100, 2_100);
    let nothing = fuel(&guest("").await, few).await;
    for (name, bytes, body) in calls() {
        let prepared = guest(&body).await;
        let (small, large) = (fuel(&prepared, few).await, fuel(&prepared, many).await);
        assert!(small >= nothing + prices.host_call_fuel, "the call of {name}: {small}, {nothing} without it");
        let per_byte = match bytes {
            Bytes::None => 0,
            Bytes::Once => prices.host_byte_fuel,
            Bytes::Twice => 2 * prices.host_byte_fuel,
            Bytes::Read => prices.workflow_calls.byte_fuel,
        };
        let moved = (large - small) / (many - few) as u64;
        assert!(moved >= per_byte, "the bytes of {name}: {moved} for each");
        let request = if name == "handle" { prices.http_request_fuel } else { 0 };
        assert!(small >= nothing + request, "the request: {small}");
    }
}

/// Prints what calls take and what they cost: nanoseconds and fuel of a call, and of a byte.
#[tokio::test]
#[ignore = "a measurement"]
async fn what_host_calls_take() {
    const TIMES: u64 = 1_000;
    let plain =
        ["progress", "current", "should-stop", "update", "log", "kv get", "kv set", "kv increment", "random", "now"];
    for (name, _, body) in calls().into_iter().filter(|(name, ..)| plain.contains(name)) {
        let again = "(i32.store (i32.const 3900) (i32.add (i32.load (i32.const 3900)) (i32.const 1)))
            (br_if $again (i32.lt_u (i32.load (i32.const 3900)) (i32.const 1000)))";
        // What is answered need not be kept.
        let heap = "(global.set $heap (local.get $i))";
        let prepared = guest(&format!("(local.set $i (global.get $heap)) (loop $again {body} {heap} {again})")).await;
        let mut took = Vec::new();
        for bytes in [100, 4_100] {
            let mut best = (u64::MAX, 0);
            for _ in 0..5 {
                let reach = Reach { grants: Arc::new(Allowed), kv: Arc::new(Store(bytes)), ..Reach::default() };
                let info = AttemptInfo { job_id: "j".repeat(bytes), ..call("").info };
                let text = format!("\"/{}\"", "x".repeat(bytes));
                let attempt = run(&prepared, Call { reach, info, ..call(&text) }).await;
                best = best.min((attempt.usage.duration_us * 1_000 / TIMES, attempt.usage.fuel / TIMES));
            }
            took.push(best);
        }
        let ((few_ns, few_fuel), (many_ns, many_fuel)) = (took[0], took[1]);
        println!(
            "{name}: {few_ns} ns and {few_fuel} fuel a call of 100 bytes; {:.2} ns and {:.1} fuel a byte",
            many_ns.saturating_sub(few_ns) as f64 / 4_000.0,
            many_fuel.saturating_sub(few_fuel) as f64 / 4_000.0
        );
    }
}
