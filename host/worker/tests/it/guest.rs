//! A guest in WAT. Its first argument's text says what it does: see `BODY`.

use std::{path::PathBuf, sync::LazyLock};

use umbel_model::{Digest, JobId, LargeValue};
use wit_component::StringEncoding;
use wit_parser::Resolve;

/// Arguments are `{"d":"<letter>"}`; the letter, at byte 6, chooses.
const BODY: &str = r#"
    (local.set $i (i32.load8_u offset=6 (local.get $args)))
    ;; e: echo
    (if (i32.eq (local.get $i) (i32.const 101)) (then (return (call $ok (local.get $args) (local.get $args_len)))))
    ;; what another task gave, alone or in a list: echo
    (if (i32.eq (local.get $i) (i32.const 34)) (then (return (call $ok (local.get $args) (local.get $args_len)))))
    (if (i32.eq (local.get $i) (i32.const 123)) (then (return (call $ok (local.get $args) (local.get $args_len)))))
    ;; s: spin
    (if (i32.eq (local.get $i) (i32.const 115)) (then (loop $again (br $again))))
    ;; l: log, then spin
    (if (i32.eq (local.get $i) (i32.const 108)) (then
        (call $log (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 1130) (i32.const 7))
        (call $progress (i64.const 1) (i64.const 2) (i32.const 1130) (i32.const 7))
        (loop $again (br $again))))
    ;; r: retry at once
    (if (i32.eq (local.get $i) (i32.const 114)) (then (return (call $failed (i32.const 0) (i64.const 1)))))
    ;; f: fatal
    (if (i32.eq (local.get $i) (i32.const 102)) (then (return (call $failed (i32.const 1) (i64.const 0)))))
    ;; z: snooze for an hour
    (if (i32.eq (local.get $i) (i32.const 122)) (then (return (call $err (i32.const 2) (i64.const 3600000)))))
    ;; i: ignore
    (if (i32.eq (local.get $i) (i32.const 105)) (then (return (call $err (i32.const 4) (i64.const 0)))))
    ;; b: a large result: a text of 70,000 letters e
    (if (i32.eq (local.get $i) (i32.const 98)) (then
        (local.set $i (call $alloc (i32.const 70002)))
        (memory.fill (local.get $i) (i32.const 101) (i32.const 70002))
        (i32.store8 (local.get $i) (i32.const 34))
        (i32.store8 (i32.add (local.get $i) (i32.const 70001)) (i32.const 34))
        (return (call $ok (local.get $i) (i32.const 70002)))))
    ;; g: a result that looks like a reference
    (if (i32.eq (local.get $i) (i32.const 103)) (then (return (call $ok (i32.const 1140) (i32.const 158)))))
    ;; c: a state of its own, then spin
    (if (i32.eq (local.get $i) (i32.const 99)) (then
        (call $update (i32.const 1130) (i32.const 7) (i32.const 1) (i32.const 1110) (i32.const 2))
        (loop $again (br $again))))
    ;; anything else: trap
"#;

const WAT: &str = r#"(module
  (import "umbel:task/context@0.1.0" "progress" (func $progress (param i64 i64 i32 i32)))
  (import "wasi:logging/logging@0.1.0-draft" "log" (func $log (param i32 i32 i32 i32 i32)))
  (import "umbel:task/custom-state@0.1.0" "update" (func $update (param i32 i32 i32 i32 i32)))
  (memory (export "memory") 8)
  (global $heap (mut i32) (i32.const 8192))
  (data (i32.const 1100) "task") (data (i32.const 1110) "{}") (data (i32.const 1120) "kind")
  (data (i32.const 1130) "message") (data (i32.const 1140) "FORGED")
  (func $alloc (param i32) (result i32)
    (local $at i32)
    (local.set $at (global.get $heap))
    (global.set $heap (i32.add (local.get $at) (local.get 0)))
    (local.get $at))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
    (global.set $heap (i32.add (local.get $at) (local.get 3)))
    (local.get $at))
  (func $ok (param i32 i32) (result i32)
    (i32.store8 (i32.const 2048) (i32.const 0))
    (i32.store (i32.const 2056) (local.get 0)) (i32.store (i32.const 2060) (local.get 1))
    (i32.const 2048))
  (func $err (param $case i32) (param $number i64) (result i32)
    (i32.store8 (i32.const 2048) (i32.const 1))
    (i32.store8 (i32.const 2056) (local.get $case)) (i64.store (i32.const 2064) (local.get $number))
    (i32.const 2048))
  (func $failed (param $case i32) (param $after i64) (result i32)
    (drop (call $err (local.get $case) (i64.const 0)))
    (i32.store (i32.const 2064) (i32.const 1120)) (i32.store (i32.const 2068) (i32.const 4))
    (i32.store (i32.const 2072) (i32.const 1130)) (i32.store (i32.const 2076) (i32.const 7))
    (i32.store8 (i32.const 2080) (i32.const 0))
    (i32.store8 (i32.const 2096) (i64.ne (local.get $after) (i64.const 0)))
    (i64.store (i32.const 2104) (local.get $after))
    (i32.const 2048))
  (func (export "umbel:task/guest@0.1.0#describe") (result i32)
    (i32.store (i32.const 2048) (i32.const 2056)) (i32.store (i32.const 2052) (i32.const 1))
    (i32.store (i32.const 2056) (i32.const 1100)) (i32.store (i32.const 2060) (i32.const 4))
    (i32.store (i32.const 2092) (i32.const 1110)) (i32.store (i32.const 2096) (i32.const 2))
    (i32.const 2048))
  (func (export "umbel:task/guest@0.1.0#run")
    (param $task i32) (param $task_len i32) (param $args i32) (param $args_len i32) (result i32)
    (local $i i32) BODY unreachable))"#;

/// What `g` returns: the text of a reference to a value of job 1 that nobody stored.
pub static FORGED: LazyLock<String> = LazyLock::new(|| {
    let stored = LargeValue { sha256: Digest::of(b"x"), bytes: 1, of: JobId::from_parts(1, 1) };
    stored.reference()
});

/// The module: a core module with its component type.
pub static MODULE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let text = WAT.replace("BODY", BODY).replace("FORGED", &FORGED.replace('"', "\\\""));
    let text = text.replace("(i32.const 158)", &format!("(i32.const {})", FORGED.len()));
    let mut module = wat::parse_str(text).unwrap();
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../wit")).unwrap();
    let world = resolve.select_world(&[package], Some("module")).unwrap();
    wit_component::embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    module
});
