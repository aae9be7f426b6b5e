//! Guests of other worlds than the SDK's: of a later 0.1.x, and with the WASI of a standard library.

use std::{fs, path::PathBuf};

use umbel_model::PolicyBounds;
use umbel_sandbox::LogLevel;

use crate::support::{ECHO, Guest, SANDBOX, call, embed_from, failure, heard, prepare, run, value};

fn wit() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../wit")
}

#[tokio::test]
async fn a_module_built_for_a_later_0_1_x_runs() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("deps")).unwrap();
    for file in fs::read_dir(wit().join("deps")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), folder.path().join("deps").join(file.file_name())).unwrap();
    }
    let later = fs::read_to_string(wit().join("task.wit")).unwrap().replace("umbel:task@0.1.0", "umbel:task@0.1.7");
    fs::write(folder.path().join("task.wit"), later).unwrap();
    let imports = r#"(import "umbel:task/context@0.1.7" "should-stop" (func $should_stop (result i32)))"#;
    let guest = Guest { imports, ..Guest::running(format!("(drop (call $should_stop)) {ECHO}")) };
    let mut module = wat::parse_str(guest.wat().replace("guest@0.1.0", "guest@0.1.7")).unwrap();
    embed_from(&mut module, folder.path().into());
    let prepared = prepare(&module).await;
    assert_eq!(SANDBOX.describe(&prepared, &PolicyBounds::default()).await.unwrap().tasks.len(), 1);
    assert_eq!(value(&run(&prepared, call("7")).await), "7");
}

/// As much of WASI 0.2 as these tests call.
pub const WASI: &str = r#"
package umbel:task@0.1.0;
interface types {
    type json = string;
    record parameter { name: string, schema: json, default: option<json> }
    record task-description { name: string, description: string, parameters: list<parameter>, returns: option<json>, policy: json }
    record failure { kind: string, message: string, details: option<json> }
    record retryable { failure: failure, retry-after-ms: option<u64> }
    variant outcome { error(retryable), fatal(failure), snooze(u64), reject(string), ignore }
}
interface guest {
    use types.{json, task-description, outcome};
    describe: func() -> list<task-description>;
    run: func(task: string, arguments: json) -> result<json, outcome>;
}
world module {
    import wasi:cli/environment@0.2.0;
    import wasi:cli/stdout@0.2.0;
    import wasi:cli/exit@0.2.0;
    import wasi:filesystem/preopens@0.2.0;
    import wasi:random/random@0.2.0;
    import wasi:io/poll@0.2.0;
    import wasi:clocks/monotonic-clock@0.2.0;
    export guest;
}
"#;
const DEPS: [(&str, &str); 5] = [
    (
        "io.wit",
        "package wasi:io@0.2.0;
         interface error { resource error; }
         interface poll { resource pollable; poll: func(in: list<borrow<pollable>>) -> list<u32>; }
         interface streams {
            use error.{error};
            variant stream-error { last-operation-failed(error), closed }
            resource output-stream {
                write: func(contents: list<u8>) -> result<_, stream-error>;
                write-zeroes: func(len: u64) -> result<_, stream-error>;
                blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>;
            }
         }",
    ),
    (
        "cli.wit",
        "package wasi:cli@0.2.0;
         interface stdout { use wasi:io/streams@0.2.0.{output-stream}; get-stdout: func() -> output-stream; }
         interface exit { exit: func(status: result); }
         interface environment {
            get-environment: func() -> list<tuple<string, string>>;
            get-arguments: func() -> list<string>;
         }",
    ),
    (
        "filesystem.wit",
        "package wasi:filesystem@0.2.0;
         interface types { resource descriptor; }
         interface preopens { use types.{descriptor}; get-directories: func() -> list<tuple<descriptor, string>>; }",
    ),
    (
        "clocks.wit",
        "package wasi:clocks@0.2.0;
         interface monotonic-clock {
            use wasi:io/poll@0.2.0.{pollable};
            subscribe-duration: func(when: u64) -> pollable;
         }",
    ),
    ("random.wit", "package wasi:random@0.2.0; interface random { get-random-bytes: func(len: u64) -> list<u8>; }"),
];
const IMPORTS: &str = r#"
  (import "wasi:cli/environment@0.2.0" "get-environment" (func $environment (param i32)))
  (import "wasi:cli/environment@0.2.0" "get-arguments" (func $arguments (param i32)))
  (import "wasi:filesystem/preopens@0.2.0" "get-directories" (func $directories (param i32)))
  (import "wasi:random/random@0.2.0" "get-random-bytes" (func $random (param i64 i32)))
  (import "wasi:cli/exit@0.2.0" "exit" (func $exit (param i32)))
  (import "wasi:cli/stdout@0.2.0" "get-stdout" (func $stdout (result i32)))
  (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush"
    (func $write (param i32 i32 i32 i32)))
  (import "wasi:io/streams@0.2.0" "[method]output-stream.write" (func $write_now (param i32 i32 i32 i32)))
  (import "wasi:io/streams@0.2.0" "[method]output-stream.write-zeroes" (func $write_zeroes (param i32 i64 i32)))
  (import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration" (func $subscribe (param i64) (result i32)))
  (import "wasi:io/poll@0.2.0" "poll" (func $poll (param i32 i32 i32)))
  (import "wasi:io/streams@0.2.0" "[resource-drop]output-stream" (func $close (param i32)))
"#;

async fn with_wasi(items: &str, body: &str) -> umbel_sandbox::Prepared {
    prepare(&built_with_wasi(Guest { items: items.into(), ..Guest::running(format!("{body} {ECHO}")) })).await
}

/// `guest` with the imports of WASI.
fn built_with_wasi(guest: Guest) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("deps")).unwrap();
    fs::write(folder.path().join("task.wit"), WASI).unwrap();
    for (name, text) in DEPS {
        fs::write(folder.path().join("deps").join(name), text).unwrap();
    }
    let mut module = wat::parse_str(Guest { imports: IMPORTS, ..guest }.wat()).unwrap();
    embed_from(&mut module, folder.path().into());
    module
}

#[tokio::test]
async fn the_world_of_wasi_is_empty() {
    // Each list is stored as an address and a length; all lengths must be zero.
    let body =
        "(call $environment (i32.const 104)) (call $arguments (i32.const 112)) (call $directories (i32.const 120))
                (if (i32.or (i32.load (i32.const 108)) (i32.or (i32.load (i32.const 116)) (i32.load (i32.const 124))))
                  (then unreachable))";
    let attempt = run(&with_wasi("", body).await, call("1")).await;
    assert_eq!(value(&attempt), "1");
    assert!(attempt.usage.fuel > 3_000, "WASI calls count: {:?}", attempt.usage);
}

#[tokio::test]
async fn standard_output_becomes_lines_of_the_log() {
    let items = r#"(data (i32.const 1200) "one\ntwo\1b[31m!\nrest")"#;
    let body = "(local.set $i (call $stdout))
                (call $write (local.get $i) (i32.const 1200) (i32.const 18) (i32.const 104))
                (call $close (local.get $i))";
    let (attempt, heard) = heard(&with_wasi(items, body).await, call("1")).await;
    assert_eq!(value(&attempt), "1");
    let lines = heard.lines.lock().unwrap();
    let said: Vec<&str> = lines.iter().map(|line| line.message.as_str()).collect();
    assert_eq!(said, ["one", "two!", "rest"]);
    assert!(lines.iter().all(|line| line.context == "stdout" && line.level == LogLevel::Info));
}

#[tokio::test]
async fn a_flood_of_output_is_cut_and_does_no_harm() {
    let items = r#"(data (i32.const 1200) "0123456\n")"#;
    let body = "(local.set $i (call $stdout))
                (loop $l
                  (i32.store (i32.const 96) (i32.add (i32.const 1) (i32.load (i32.const 96))))
                  (call $write (local.get $i) (i32.const 1200) (i32.const 8) (i32.const 104))
                  (br_if $l (i32.lt_u (i32.load (i32.const 96)) (i32.const 3000))))";
    let (attempt, heard) = heard(&with_wasi(items, body).await, call("1")).await;
    assert_eq!(value(&attempt), "1");
    assert_eq!(heard.lines.lock().unwrap().len(), 1_001);
    assert_eq!(attempt.log_dropped, 2_000);
}

#[tokio::test]
async fn exit_is_a_trap_with_a_name() {
    let attempt = run(&with_wasi("", "(call $exit (i32.const 1))").await, call("1")).await;
    assert_eq!(failure(&attempt).kind, "trap:exit");
}

#[tokio::test]
async fn random_bytes_are_bounded() {
    let some = "(call $random (i64.const 16) (i32.const 104))
                (if (i32.ne (i32.load (i32.const 108)) (i32.const 16)) (then unreachable))";
    assert_eq!(value(&run(&with_wasi("", some).await, call("1")).await), "1");
    let many = "(call $random (i64.const 1000000000) (i32.const 104))";
    let attempt = run(&with_wasi("", many).await, call("1")).await;
    assert_eq!(failure(&attempt).kind, "host_limit:call", "{:?}", attempt.outcome);
}

/// Writes 4 MiB without the end of a line to each of a thousand streams of standard output.
const FLOOD_OF_STREAMS: &str = "(drop (memory.grow (i32.const 80)))
    (loop $l
      (call $write_now (call $stdout) (i32.const 65536) (i32.const 4194304) (i32.const 104))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $l (i32.lt_u (local.get $i) (i32.const 1000))))";

#[tokio::test]
async fn more_than_check_write_allows_is_refused_before_it_is_copied() {
    let calls = [
        FLOOD_OF_STREAMS,
        "(call $write_now (call $stdout) (i32.const 0) (i32.const 4097) (i32.const 104))",
        "(call $write (call $stdout) (i32.const 0) (i32.const 4097) (i32.const 104))",
        "(call $write_zeroes (call $stdout) (i64.const -1) (i32.const 104))",
    ];
    for call_of in calls {
        let attempt = run(&with_wasi("", call_of).await, call("1")).await;
        let failure = failure(&attempt);
        assert_eq!(failure.kind, "host_limit:call", "{call_of}");
        assert!(failure.message.contains("at most 4096 bytes"), "{}", failure.message);
    }
}

#[tokio::test]
async fn a_description_cannot_write_more_than_an_attempt() {
    let guest = Guest { describe: FLOOD_OF_STREAMS.into(), ..Guest::default() };
    let refused = SANDBOX.describe(&prepare(&built_with_wasi(guest)).await, &PolicyBounds::default()).await;
    assert!(refused.as_ref().unwrap_err().to_string().contains("host_limit:call"), "{refused:?}");
}

#[tokio::test]
async fn all_streams_of_standard_output_share_one_unfinished_line() {
    let items = r#"(data (i32.const 1200) "ab\n")"#;
    let body = "(loop $l
                  (call $write_now (call $stdout) (i32.const 1200) (i32.const 1) (i32.const 104))
                  (local.set $i (i32.add (local.get $i) (i32.const 1)))
                  (br_if $l (i32.lt_u (local.get $i) (i32.const 1000))))
                (call $write_now (call $stdout) (i32.const 1201) (i32.const 2) (i32.const 104))";
    let (attempt, heard) = heard(&with_wasi(items, body).await, call("1")).await;
    assert_eq!(value(&attempt), "1");
    let lines = heard.lines.lock().unwrap();
    assert_eq!(lines.iter().map(|line| line.message.clone()).collect::<Vec<_>>(), [format!("{}b", "a".repeat(1_000))]);
}

#[tokio::test]
async fn bytes_that_wasi_moves_are_charged() {
    let fuel = |call_of: String| async move {
        let attempt = run(&with_wasi("", &call_of).await, call("1")).await;
        assert_eq!(value(&attempt), "1", "{call_of}");
        attempt.usage.fuel
    };
    let written = |bytes| format!("(call $write_now (call $stdout) (i32.const 0) (i32.const {bytes}) (i32.const 104))");
    let zeroes = |bytes| format!("(call $write_zeroes (call $stdout) (i64.const {bytes}) (i32.const 104))");
    let random = |bytes| format!("(call $random (i64.const {bytes}) (i32.const 104))");
    for of in [&written as &dyn Fn(u32) -> String, &zeroes, &random] {
        let more = fuel(of(4_000)).await - fuel(of(16)).await;
        assert!((3_984..5_000).contains(&more), "{more}: {}", of(0));
    }
}

#[tokio::test]
async fn a_poll_of_one_resource_many_times_has_a_name_when_it_is_refused() {
    let body = |count: u32| {
        format!(
            "(drop (memory.grow (i32.const 80)))
             (i32.store (i32.const 96) (call $subscribe (i64.const 1)))
             (loop $l
               (i32.store (i32.add (i32.const 65536) (i32.shl (local.get $i) (i32.const 2))) (i32.load (i32.const 96)))
               (local.set $i (i32.add (local.get $i) (i32.const 1)))
               (br_if $l (i32.lt_u (local.get $i) (i32.const {count}))))
             (call $poll (i32.const 65536) (i32.const {count}) (i32.const 104))"
        )
    };
    assert_eq!(value(&run(&with_wasi("", &body(1_000)).await, call("1")).await), "1");
    let attempt = run(&with_wasi("", &body(1_025)).await, call("1")).await;
    assert_eq!(failure(&attempt).kind, "host_limit:handles", "{:?}", attempt.outcome);
}
