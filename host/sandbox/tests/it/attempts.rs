//! How attempts end, by their own doing, by their limits, and by their owner.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use umbel_model::Outcome;
use umbel_sandbox::{Call, LogLevel, Stop, StopHandle};

use crate::support::{ECHO, Guest, Heard, SANDBOX, call, failure, heard, run, trap_of, value};

const CONTEXT: &str = r#"
  (import "umbel:task/context@0.1.0" "should-stop" (func $should_stop (result i32)))
  (import "umbel:task/context@0.1.0" "remaining-ms" (func $remaining_ms (result i64)))
  (import "umbel:task/context@0.1.0" "progress" (func $progress (param i64 i64 i32 i32)))
  (import "umbel:task/context@0.1.0" "current" (func $current (param i32)))
  (import "wasi:logging/logging@0.1.0-draft" "log" (func $log (param i32 i32 i32 i32 i32)))
"#;
const SLEEP: &str = r#"
  (import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration" (func $subscribe (param i64) (result i32)))
  (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))
"#;
const SPIN: &str = "(loop $l (br $l))";
const SLEEP_AN_HOUR: &str = "(call $block (call $subscribe (i64.const 3600000000000)))";

fn with(imports: &'static str, run: &str) -> Guest {
    Guest { imports, ..Guest::running(run) }
}

#[tokio::test]
async fn a_result_is_kept_as_it_is_and_usage_is_counted() {
    let attempt = run(&Guest::default().prepare().await, call(r#"{"x": [1, "ä"]}"#)).await;
    assert_eq!(value(&attempt), r#"{"x": [1, "ä"]}"#);
    assert!(attempt.usage.fuel > 10 && attempt.usage.fuel < 10_000, "{:?}", attempt.usage);
    assert_eq!(attempt.usage.memory_bytes, 2 << 16);
    assert!(attempt.usage.duration_us > 0);
}

#[tokio::test]
async fn fuel_is_the_same_in_every_run() {
    let prepared = Guest::default().prepare().await;
    let first = run(&prepared, call("{}")).await.usage.fuel;
    for _ in 0..10 {
        assert_eq!(run(&prepared, call("{}")).await.usage.fuel, first);
    }
}

#[tokio::test]
async fn every_case_of_the_contract_has_its_outcome() {
    let outcome =
        |body: &'static str| async move { run(&Guest::running(body).prepare().await, call("{}")).await.outcome };
    let Outcome::Error { failure, retry_after_ms } =
        outcome("(return (call $failed (i32.const 0) (i64.const 7)))").await
    else {
        panic!()
    };
    assert_eq!((failure.kind.as_str(), failure.message.as_str(), retry_after_ms), ("kind", "message", Some(7)));
    let fatal = outcome("(return (call $failed (i32.const 1) (i64.const 0)))").await;
    assert!(matches!(fatal, Outcome::Error { .. } | Outcome::Fatal(_)), "{fatal:?}");
    let snooze = outcome("(return (call $err (i32.const 2) (i64.const 5)))").await;
    assert!(matches!(snooze, Outcome::Snooze { delay_ms: 5 }), "{snooze:?}");
    // Address 1130, length 7, as one number.
    let reject = outcome("(return (call $err (i32.const 3) (i64.const 0x00000007_0000046a)))").await;
    assert!(matches!(&reject, Outcome::Reject { reason } if reason == "message"), "{reject:?}");
    assert!(matches!(outcome("(return (call $err (i32.const 4) (i64.const 0)))").await, Outcome::Ignore));
}

#[tokio::test]
async fn nothing_survives_an_attempt() {
    // The first call finds zero and writes one.
    let body = "(i32.store8 (i32.const 900) (i32.add (i32.load8_u (i32.const 900)) (i32.const 49)))
                (return (call $ok (i32.const 900) (i32.const 1)))";
    let prepared = Guest::running(body).prepare().await;
    for _ in 0..50 {
        assert_eq!(value(&run(&prepared, call("{}")).await), "1");
    }
}

#[tokio::test]
async fn a_spinning_guest_runs_out_of_fuel() {
    let attempt = run(&Guest::running(SPIN).prepare().await, Call { fuel: 1_000_000, ..call("{}") }).await;
    assert_eq!(failure(&attempt).kind, "out_of_fuel");
    assert_eq!(attempt.usage.fuel, 1_000_000);
}

#[tokio::test]
async fn a_guest_that_never_calls_the_host_meets_its_deadline() {
    let limits = Call { fuel: u64::MAX / 2, time_limit_ms: 500, ..call("{}") };
    let started = Instant::now();
    let attempt = run(&Guest::running(SPIN).prepare().await, limits).await;
    assert_eq!(failure(&attempt).kind, "deadline");
    assert!(!failure(&attempt).frames.is_empty());
    assert!(attempt.usage.duration_us >= 500_000 && started.elapsed() < Duration::from_secs(30));
    // The counter of an interrupted guest lags, by a known amount.
    assert!(attempt.usage.fuel > 1_000_000, "{:?}", attempt.usage);
}

#[tokio::test]
async fn a_guest_that_sleeps_meets_its_deadline() {
    let body = format!("{SLEEP_AN_HOUR} {ECHO}");
    let attempt = run(&with(SLEEP, &body).prepare().await, Call { time_limit_ms: 100, ..call("{}") }).await;
    assert_eq!(failure(&attempt).kind, "deadline");
    assert!(attempt.usage.duration_us < 5_000_000, "{:?}", attempt.usage);
}

#[tokio::test]
async fn a_guest_that_sleeps_a_little_goes_on() {
    let body = format!("(call $block (call $subscribe (i64.const 20000000))) {ECHO}");
    let attempt = run(&with(SLEEP, &body).prepare().await, call("3")).await;
    assert_eq!(value(&attempt), "3");
    assert!(attempt.usage.duration_us >= 20_000, "{:?}", attempt.usage);
}

#[tokio::test]
async fn spinning_guests_share_one_thread_with_others() {
    let spinning = Guest::running(SPIN).prepare().await;
    let echo = Guest::default().prepare().await;
    let stop = StopHandle::new();
    let spin = |stop: StopHandle| {
        let prepared = spinning.clone();
        let endless = Call { fuel: u64::MAX / 2, time_limit_ms: 60_000, ..call("{}") };
        tokio::spawn(async move { SANDBOX.run(&prepared, endless, Arc::new(Heard::default()), &stop).await })
    };
    let spinners = [spin(stop.clone()), spin(stop.clone())];
    tokio::task::yield_now().await;
    for _ in 0..20 {
        assert_eq!(value(&run(&echo, call("1")).await), "1");
        tokio::task::yield_now().await;
    }
    stop.stop(Stop::Cancel);
    for spinner in spinners {
        assert!(matches!(spinner.await.unwrap().outcome, Outcome::Revoked));
    }
}

#[tokio::test]
async fn a_sleeping_guest_is_stopped_at_once() {
    let prepared = with(SLEEP, SLEEP_AN_HOUR).prepare().await;
    let stop = StopHandle::new();
    let attempt = tokio::spawn({
        let stop = stop.clone();
        async move { SANDBOX.run(&prepared, call("{}"), Arc::new(Heard::default()), &stop).await }
    });
    tokio::task::yield_now().await;
    stop.stop(Stop::Release);
    assert!(matches!(attempt.await.unwrap().outcome, Outcome::Released));
}

#[tokio::test]
async fn an_attempt_that_was_stopped_before_it_began_does_not_run() {
    let prepared = Guest::default().prepare().await;
    let stop = StopHandle::new();
    stop.stop(Stop::Cancel);
    let attempt = SANDBOX.run(&prepared, call("{}"), Arc::new(Heard::default()), &stop).await;
    assert!(matches!(attempt.outcome, Outcome::Revoked));
    assert_eq!(attempt.usage.fuel, 0);
}

#[tokio::test]
async fn the_soft_limit_and_a_request_to_stop_reach_the_guest() {
    let body = format!("(loop $l (br_if $l (i32.eqz (call $should_stop)))) {ECHO}");
    let prepared = with(CONTEXT, &body).prepare().await;
    let soft = Call { soft_time_limit_ms: 50, fuel: u64::MAX / 2, ..call("1") };
    let attempt = run(&prepared, soft).await;
    assert_eq!(value(&attempt), "1");
    assert!(attempt.usage.duration_us >= 50_000);
    let stop = StopHandle::new();
    stop.ask();
    let endless = Call { fuel: u64::MAX / 2, ..call("2") };
    assert_eq!(value(&SANDBOX.run(&prepared, endless, Arc::new(Heard::default()), &stop).await), "2");
}

#[tokio::test]
async fn the_guest_knows_its_attempt_and_its_time() {
    // attempt: job-id is the first string, so its address is returned as the result.
    let body = "(if (i64.gt_u (call $remaining_ms) (i64.const 20000)) (then unreachable))
                (call $current (i32.const 104))
                (i32.store8 (i32.const 300) (i32.const 34))
                (memory.copy (i32.const 301) (i32.load (i32.const 104)) (i32.load (i32.const 108)))
                (i32.store8 (i32.add (i32.const 301) (i32.load (i32.const 108))) (i32.const 34))
                (return (call $ok (i32.const 300) (i32.add (i32.const 2) (i32.load (i32.const 108)))))";
    assert_eq!(value(&run(&with(CONTEXT, body).prepare().await, call("{}")).await), "\"job\"");
}

#[tokio::test]
async fn endless_recursion_is_stack() {
    let items = "(func $down (result i32) (i32.add (call $down) (i32.const 1)))".into();
    let guest = Guest { items, ..Guest::running("(return (call $down))") };
    assert_eq!(trap_of(guest).await, "stack");
}

#[tokio::test]
async fn endless_allocation_is_memory() {
    let grow = "(loop $l (br_if $l (i32.ne (i32.const -1) (memory.grow (i32.const 16))))) unreachable";
    let attempt = run(&Guest::running(grow).prepare().await, call("{}")).await;
    assert_eq!(failure(&attempt).kind, "memory");
    assert!(failure(&attempt).message.contains("16777216"));
    assert!(attempt.usage.memory_bytes <= 16 << 20 && attempt.usage.memory_bytes > 14 << 20);
}

#[tokio::test]
async fn arguments_and_first_memory_over_the_limit_are_memory() {
    let large = Guest { memory: "512", ..Guest::default() };
    assert_eq!(trap_of(large).await, "memory");
    let arguments = format!("\"{}\"", "x".repeat(1 << 20));
    let attempt = run(&Guest::default().prepare().await, Call { memory_bytes: 192 << 10, ..call(&arguments) }).await;
    assert_eq!(failure(&attempt).kind, "memory");
}

#[tokio::test]
async fn traps_have_names_and_frames() {
    assert_eq!(trap_of(Guest::running("unreachable")).await, "trap:unreachable");
    let divide = "(return (i32.div_s (local.get $args_len) (local.get $i)))";
    let attempt = run(&Guest::running(divide).prepare().await, call("{}")).await;
    assert_eq!(failure(&attempt).kind, "trap:integer_division_by_zero");
    assert_eq!(failure(&attempt).frames[0].function, "run");
    let out_of_bounds = "(return (i32.load (i32.const -4)))";
    assert_eq!(trap_of(Guest::running(out_of_bounds)).await, "trap:memory_out_of_bounds");
}

#[tokio::test]
async fn what_cannot_be_read_as_a_result_is_bad_output() {
    for body in [
        "(return (call $ok (i32.const 1130) (i32.const 7)))", // message
        "(return (call $ok (i32.const 1130) (i32.const 0)))", // nothing
        "(return (call $ok (i32.const -16) (i32.const 16)))", // a string outside of the memory
        "(return (call $ok (i32.const 16) (i32.const -1)))",  // endless
        "(i32.store8 (i32.const 900) (i32.const 255)) (return (call $ok (i32.const 900) (i32.const 1)))", // not UTF-8
        "(return (call $err (i32.const 77) (i64.const 0)))",  // no such case
        "(return (i32.const -4))",                            // the result itself is outside
        "(return (i32.const 2049))",                          // and misaligned
        // 60,000 brackets
        "(memory.fill (i32.const 9000) (i32.const 91) (i32.const 30000))
         (memory.fill (i32.const 39000) (i32.const 93) (i32.const 30000))
         (return (call $ok (i32.const 9000) (i32.const 60000)))",
    ] {
        assert_eq!(trap_of(Guest::running(body)).await, "bad_output", "{body}");
    }
}

#[tokio::test]
async fn a_result_over_the_limit_is_named() {
    for pages in [20, 200] {
        let body = format!(
            "(drop (memory.grow (i32.const {pages}))) (return (call $ok (i32.const 8192) (i32.const {})))",
            pages << 16
        );
        assert_eq!(trap_of(Guest::running(body)).await, "host_limit:result", "{pages} pages");
    }
}

#[tokio::test]
async fn a_call_that_hands_over_too_much_is_named() {
    for call in [
        "(call $progress (i64.const 1) (i64.const 2) (i32.const 0) (i32.const 12000000))",
        "(call $log (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 12000000))",
    ] {
        let body = format!("(drop (memory.grow (i32.const 200))) {call}");
        assert_eq!(trap_of(with(CONTEXT, &body)).await, "host_limit:call");
    }
}

#[tokio::test]
async fn a_flood_of_log_lines_is_cut_and_does_no_harm() {
    let body = format!(
        "(loop $l
           (call $log (i32.const 2) (i32.const 1120) (i32.const 4) (i32.const 1130) (i32.const 7))
           (local.set $i (i32.add (local.get $i) (i32.const 1)))
           (br_if $l (i32.lt_u (local.get $i) (i32.const 5000))))
         {ECHO}"
    );
    let (attempt, heard) = heard(&with(CONTEXT, &body).prepare().await, call("1")).await;
    assert_eq!(value(&attempt), "1");
    assert_eq!(attempt.log_dropped, 4_000);
    let lines = heard.lines.lock().unwrap();
    assert_eq!(lines.len(), 1_001);
    assert_eq!(
        (lines[0].level, lines[0].context.as_str(), lines[0].message.as_str()),
        (LogLevel::Info, "kind", "message")
    );
    assert!(lines[1_000].message.contains("log limit reached"));
}

#[tokio::test]
async fn a_huge_log_line_is_cut() {
    let body = format!(
        "(drop (memory.grow (i32.const 200))) (memory.fill (i32.const 9000) (i32.const 97) (i32.const 1000000))
         (call $log (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 9000) (i32.const 1000000)) {ECHO}"
    );
    let (attempt, heard) = heard(&with(CONTEXT, &body).prepare().await, call("1")).await;
    assert_eq!(value(&attempt), "1");
    assert!(attempt.usage.fuel > 1_000_000, "bytes are charged");
    assert_eq!(heard.lines.lock().unwrap()[0].message.len(), 8 << 10);
}

#[tokio::test]
async fn a_flood_of_progress_is_coalesced_and_the_last_is_kept() {
    let body = format!(
        "(loop $l
           (local.set $i (i32.add (local.get $i) (i32.const 1)))
           (call $progress (i64.extend_i32_u (local.get $i)) (i64.const 10000) (i32.const 1130) (i32.const 7))
           (br_if $l (i32.lt_u (local.get $i) (i32.const 10000))))
         {ECHO}"
    );
    let (attempt, heard) = heard(&with(CONTEXT, &body).prepare().await, call("1")).await;
    assert_eq!(value(&attempt), "1");
    let progress = heard.progress.lock().unwrap();
    assert!(progress.len() < 1_000, "{}", progress.len());
    assert_eq!(progress.last().unwrap().done, 10_000);
}

#[tokio::test]
async fn a_million_host_calls_are_charged() {
    let body = "(loop $l (drop (call $should_stop)) (br $l))";
    let attempt = run(&with(CONTEXT, body).prepare().await, Call { fuel: 1_000_000_000, ..call("{}") }).await;
    assert_eq!(failure(&attempt).kind, "out_of_fuel");
}

#[tokio::test]
async fn hoarding_resources_is_named() {
    let body = "(loop $l (drop (call $subscribe (i64.const 1000))) (br $l))";
    assert_eq!(trap_of(with(SLEEP, body)).await, "host_limit:handles");
}

#[tokio::test]
async fn a_module_that_spins_while_it_starts_meets_its_limits() {
    let items = "(start $forever) (func $forever (loop $l (br $l)))".to_owned();
    let guest = Guest { items, ..Guest::default() }.prepare().await;
    let fuel = run(&guest, Call { fuel: 1_000_000, ..call("{}") }).await;
    assert_eq!(failure(&fuel).kind, "out_of_fuel");
    let time = run(&guest, Call { fuel: u64::MAX / 2, time_limit_ms: 50, ..call("{}") }).await;
    assert_eq!(failure(&time).kind, "deadline");
}

#[tokio::test]
async fn more_attempts_than_slots_wait_and_all_succeed() {
    let body = format!("(call $block (call $subscribe (i64.const 1000000))) {ECHO}");
    let prepared = with(SLEEP, &body).prepare().await;
    let attempts: Vec<_> = (0..200)
        .map(|n| {
            let prepared = prepared.clone();
            tokio::spawn(async move { run(&prepared, call(&n.to_string())).await })
        })
        .collect();
    for (n, attempt) in attempts.into_iter().enumerate() {
        assert_eq!(value(&attempt.await.unwrap()), n.to_string());
    }
}

#[tokio::test]
async fn what_a_panic_says_is_in_the_failure() {
    let body = "(call $log (i32.const 5) (i32.const 1120) (i32.const 4) (i32.const 1130) (i32.const 7)) unreachable";
    let attempt = run(&with(CONTEXT, body).prepare().await, call("1")).await;
    assert_eq!(failure(&attempt).kind, "trap:unreachable");
    assert_eq!(failure(&attempt).message, "the guest aborted: message");
    // As the SDK's hook for panics does.
    let body = "(call $log (i32.const 5) (i32.const 1600) (i32.const 5) (i32.const 1130) (i32.const 7)) unreachable";
    let hook = Guest { items: r#"(data (i32.const 1600) "panic")"#.into(), ..with(CONTEXT, body) };
    let attempt = run(&hook.prepare().await, call("1")).await;
    assert_eq!((&*failure(&attempt).kind, &*failure(&attempt).message), ("panic", "message"));
}

#[tokio::test]
async fn a_flood_of_wasi_calls_runs_out_of_fuel() {
    // A round costs the guest about ten: without the charge of its calls, the budget lasts for a hundred times as many.
    let imports = r#"(import "wasi:clocks/monotonic-clock@0.2.0" "now" (func $now (result i64)))"#;
    let guest = with(imports, "(loop $l (drop (call $now)) (br $l))");
    let budget = 200_000_000;
    let attempt = run(&guest.prepare().await, Call { fuel: budget, ..call("{}") }).await;
    assert_eq!(failure(&attempt).kind, "out_of_fuel");
    assert!(attempt.usage.fuel > budget && attempt.usage.fuel < 10 * budget, "{:?}", attempt.usage);
}
