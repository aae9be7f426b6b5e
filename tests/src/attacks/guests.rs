//! What hostile tenants push.

use anyhow::Result;

use crate::component::{Component, Task};

/// A tiny module with a task of its own name.
pub(super) fn small(number: u64) -> Result<Vec<u8>> {
    Component::of(vec![Task::named(format!("small_{number}"))]).build()
}

/// Writes 4 MiB to each of a thousand streams of standard output: when it runs, or when it is described.
pub(super) fn streams(at_push: bool) -> Result<Vec<u8>> {
    let write = "(loop $more
        (call $write (call $stdout) (i32.const 1048576) (i32.const 4194304) (i32.const 512))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br_if $more (i32.lt_u (local.get $i) (i32.const 1000))))";
    let plain = Component { pages: 96, ..Component::of(vec![Task::named("streams")]) };
    let (describe, run) = if at_push { (write, "") } else { ("", write) };
    Component { describe: describe.to_owned(), run: run.to_owned(), ..plain }.build()
}

/// Computes for some ten milliseconds.
pub(super) fn work() -> Result<Vec<u8>> {
    let run = "(loop $more
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br_if $more (i32.lt_u (local.get $i) (i32.const 20000000))))";
    Component { run: run.to_owned(), ..Component::of(vec![Task::named("work")]) }.build()
}

/// Sleeps for 15 s.
pub(super) fn sleeper() -> Result<Vec<u8>> {
    let run = "(call $block (call $after (i64.const 15000000000)))";
    Component { run: run.to_owned(), ..Component::of(vec![Task::named("sleeper")]) }.build()
}

/// Asks to be run again at once, for ever.
pub(super) fn snoozer() -> Result<Vec<u8>> {
    let run = "(i32.store8 (i32.const 512) (i32.const 1)) (i32.store8 (i32.const 520) (i32.const 2))
        (i64.store (i32.const 528) (i64.const 0)) (return (i32.const 512))";
    Component { run: run.to_owned(), ..Component::of(vec![Task::named("snoozer")]) }.build()
}

/// Returns a text of this many bytes.
pub(super) fn big(bytes: u32) -> Result<Vec<u8>> {
    let last = bytes - 1;
    let run = format!(
        "(local.set $p (call $alloc (i32.const 0) (i32.const 0) (i32.const 1) (i32.const {bytes})))
        (memory.fill (local.get $p) (i32.const 97) (i32.const {bytes}))
        (i32.store8 (local.get $p) (i32.const 34))
        (i32.store8 (i32.add (local.get $p) (i32.const {last})) (i32.const 34))
        (i32.store8 (i32.const 512) (i32.const 0))
        (i32.store (i32.const 520) (local.get $p)) (i32.store (i32.const 524) (i32.const {bytes}))
        (return (i32.const 512))"
    );
    Component { run, ..Component::of(vec![Task::named("big")]) }.build()
}

/// Takes so much memory, writes to every page of it, and computes for a while.
pub(super) fn hungry(mib: u32) -> Result<Vec<u8>> {
    let bytes = mib << 20;
    let run = format!(
        "(local.set $p (call $alloc (i32.const 0) (i32.const 0) (i32.const 1) (i32.const {bytes})))
        (memory.fill (local.get $p) (i32.const 97) (i32.const {bytes}))
        (call $block (call $after (i64.const 200000000)))"
    );
    let policy = format!(r#"{{"max_retries":0,"memory_bytes":{}}}"#, (mib + 16) << 20);
    Component { run, ..Component::of(vec![Task { policy, ..Task::named("hungry") }]) }.build()
}

/// Tasks with this many parameters of this schema each.
pub(super) fn schemas(tasks: usize, parameters: usize, schema: &str, number: u64) -> Result<Vec<u8>> {
    let task = |i: usize| Task {
        parameters: (0..parameters).map(|p| (format!("p{p}"), schema.to_owned())).collect(),
        ..Task::named(format!("schemas_{number}_{i}"))
    };
    Component::of((0..tasks).map(task).collect()).build()
}

/// A task whose parameter is an array of anything.
pub(super) fn tree() -> Result<Vec<u8>> {
    let schema = r#"{"type":"array","items":{"anyOf":[{"type":"integer","minimum":3},{"type":["object","array"]}]}}"#;
    let task = Task { parameters: vec![("x".to_owned(), schema.to_owned())], ..Task::named("tree") };
    Component::of(vec![task]).build()
}

/// Millions of elements of tables.
pub(super) fn elements() -> Result<Vec<u8>> {
    let list = "$f ".repeat(100_000);
    let items = format!("(func $f) {}", format!("(elem declare func {list})").repeat(10));
    Component { items, ..Component::of(vec![Task::named("elements")]) }.build()
}

/// As many functions as admission lets through, so that compiling takes as long as a stranger can make it take.
pub(super) fn functions() -> Result<Vec<u8>> {
    let body = "(local i64) (local.set 0 (i64.mul (i64.add (local.get 0) (i64.const 7)) (local.get 0)))".to_owned();
    let function = format!("(func {body} {})", "(local.set 0 (i64.rotl (local.get 0) (i64.const 3)))".repeat(20));
    Component { items: function.repeat(8_000), ..Component::of(vec![Task::named("functions")]) }.build()
}

/// Components that instantiate the one before four times, eight levels deep.
pub(super) fn instances() -> Result<Vec<u8>> {
    let mut text = "(component $c0 (core module $m) (core instance (instantiate $m)))".to_owned();
    for level in 1..8 {
        let before = level - 1;
        let four = format!("(instance (instantiate $c{before}))").repeat(4);
        text += &format!("(component $c{level} (alias outer $root $c{before} (component $c{before})) {four})");
    }
    Ok(wat::parse_str(format!("(component $root {text} (instance (instantiate $c7)))"))?)
}
