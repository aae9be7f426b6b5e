//! Attempts that call their task for each of several items.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use umbel_model::{Outcome, Progress};
use umbel_sandbox::{
    Attempt, Call, Host, LogLimits, LogLine, Prepared, Refused, Sandbox, SandboxConfig, Stop, StopHandle,
};

use crate::support::{ECHO, Guest, Heard, SANDBOX, call, compile, failure, run, value};

const CONTEXT: &str = r#"
  (import "umbel:task/context@0.1.0" "progress" (func $progress (param i64 i64 i32 i32)))
  (import "wasi:logging/logging@0.1.0-draft" "log" (func $log (param i32 i32 i32 i32 i32)))
  (import "umbel:task/canvas@0.1.0" "submit" (func $submit (param i32 i32 i32)))
  (import "umbel:task/canvas@0.1.0" "replace" (func $replace (param i32 i32 i32)))
"#;

/// Agrees to every workflow.
#[derive(Default)]
struct Agrees {
    submitted: AtomicU32,
}

impl Host for Agrees {
    fn log(&self, _: LogLine) {}
    fn progress(&self, _: Progress) {}
    fn submit(&self, _: &str) -> Result<String, Refused> {
        self.submitted.fetch_add(1, Ordering::Relaxed);
        Ok("id".to_owned())
    }
}

fn items<T: ToString>(items: impl IntoIterator<Item = T>) -> Vec<Box<str>> {
    items.into_iter().map(|item| item.to_string().into()).collect()
}

async fn each(prepared: &Prepared, call: Call, items: Vec<Box<str>>) -> Attempt {
    SANDBOX.run_map(prepared, call, items, Arc::new(Heard::default()), &StopHandle::new()).await
}

fn with(run: &str) -> Guest {
    Guest { imports: CONTEXT, ..Guest::running(run) }
}

#[tokio::test]
async fn results_are_a_list_in_the_order_of_the_items() {
    let prepared = Guest::default().prepare().await;
    let attempt = each(&prepared, call("{}"), items(["{\"x\":1}", "[2]", "\"ä\""])).await;
    assert_eq!(value(&attempt), "[{\"x\":1},[2],\"ä\"]");
    assert_eq!(value(&each(&prepared, call("{}"), vec![]).await), "[]");
}

#[tokio::test]
async fn every_item_has_a_fresh_store_and_usage_is_summed() {
    let body = "(i32.store8 (i32.const 900) (i32.add (i32.load8_u (i32.const 900)) (i32.const 49)))
                (return (call $ok (i32.const 900) (i32.const 1)))";
    let prepared = Guest::running(body).prepare().await;
    let one = run(&prepared, call("0")).await.usage;
    let three = each(&prepared, call("{}"), items([0, 0, 0])).await;
    assert_eq!(value(&three), "[1,1,1]");
    assert_eq!(three.usage.fuel, 3 * one.fuel);
    assert_eq!(three.usage.memory_bytes, one.memory_bytes);
}

#[tokio::test]
async fn the_fuel_is_that_of_the_whole() {
    let prepared = Guest::default().prepare().await;
    let one = run(&prepared, call("7")).await.usage.fuel;
    let attempt = each(&prepared, Call { fuel: 10 * one + one / 2, ..call("{}") }, items([7; 100])).await;
    let failure = failure(&attempt);
    assert_eq!((failure.kind.as_str(), failure.details.as_ref().unwrap().get()), ("out_of_fuel", r#"{"item":10}"#));
    assert_eq!(attempt.usage.fuel, 10 * one + one / 2);
}

#[tokio::test]
async fn the_time_limit_is_that_of_the_whole_even_when_each_item_is_short() {
    let prepared = Guest::default().prepare().await;
    let limits = Call { fuel: u64::MAX, time_limit_ms: 100, ..call("{}") };
    let started = Instant::now();
    let attempt = each(&prepared, limits, items(vec![7; 300_000])).await;
    assert_eq!(failure(&attempt).kind, "deadline");
    assert!(attempt.usage.duration_us >= 100_000 && started.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn the_first_item_that_fails_ends_the_attempt_and_is_named() {
    // A digit is returned, anything else is an error.
    let body = format!(
        "(if (i32.lt_u (i32.sub (i32.load8_u (local.get $args)) (i32.const 48)) (i32.const 10)) (then {ECHO}))
         (return (call $failed (i32.const 0) (i64.const 9)))"
    );
    let attempt = each(&Guest::running(body).prepare().await, call("{}"), items(["1", "2", "x", "3"])).await;
    let Outcome::Error { failure, retry_after_ms } = attempt.outcome else { panic!("{:?}", attempt.outcome) };
    assert_eq!((failure.kind.as_str(), retry_after_ms), ("kind", Some(9)));
    assert_eq!(failure.details.unwrap().get(), r#"{"item":2}"#);
}

#[tokio::test]
async fn an_item_whose_result_is_not_wanted_gives_null() {
    let attempt = each(
        &Guest::running("(return (call $err (i32.const 4) (i64.const 0)))").prepare().await,
        call("{}"),
        items([1, 2]),
    )
    .await;
    assert_eq!(value(&attempt), "[null,null]");
}

#[tokio::test]
async fn a_list_that_is_too_large_is_named() {
    let text = format!("\"{}\"", "x".repeat(300 << 10));
    let attempt = each(&Guest::default().prepare().await, call("{}"), items(vec![text; 5])).await;
    let failure = failure(&attempt);
    assert_eq!(
        (failure.kind.as_str(), failure.details.as_ref().unwrap().get()),
        ("host_limit:result", r#"{"item":3}"#)
    );
}

#[tokio::test]
async fn an_item_cannot_smuggle_more_results_into_the_list() {
    for text in ["1,2", "1]", "", "[1"] {
        let attempt = each(&Guest::default().prepare().await, call("{}"), items([text])).await;
        assert_eq!(failure(&attempt).kind, "bad_output", "{text}");
    }
}

#[tokio::test]
async fn a_stop_ends_it_between_two_items() {
    let prepared = Guest::default().prepare().await;
    let stop = StopHandle::new();
    stop.stop(Stop::Cancel);
    let attempt = SANDBOX.run_map(&prepared, call("{}"), items([1]), Arc::new(Heard::default()), &stop).await;
    assert!(matches!(attempt.outcome, Outcome::Revoked));
    assert_eq!(attempt.usage.fuel, 0);
}

#[tokio::test]
async fn many_short_items_share_one_thread_with_others() {
    let prepared = Guest::default().prepare().await;
    let stop = StopHandle::new();
    let endless = Call { fuel: u64::MAX, time_limit_ms: 600_000, ..call("{}") };
    let long = tokio::spawn({
        let (prepared, stop) = (prepared.clone(), stop.clone());
        let all = items(vec![7; 400_000]);
        async move { SANDBOX.run_map(&prepared, endless, all, Arc::new(Heard::default()), &stop).await }
    });
    for _ in 0..10 {
        assert_eq!(value(&run(&prepared, call("1")).await), "1");
        tokio::task::yield_now().await;
    }
    stop.stop(Stop::Cancel);
    assert!(matches!(long.await.unwrap().outcome, Outcome::Revoked));
}

#[tokio::test]
async fn the_log_and_the_progress_are_those_of_the_whole() {
    let body = format!(
        "(call $log (i32.const 2) (i32.const 1120) (i32.const 4) (i32.const 1130) (i32.const 7))
         (call $progress (i64.const 1) (i64.const 2) (i32.const 1130) (i32.const 7)) {ECHO}"
    );
    let log = LogLimits { lines: 4, ..LogLimits::default() };
    let config = SandboxConfig { slots: 2, log, progress_interval_ms: 3_600_000, ..SandboxConfig::default() };
    let sandbox = Sandbox::new(config).unwrap();
    let prepared = sandbox.load(compile(&with(&body).build()).await.unwrap().into()).unwrap();
    let host = Arc::new(Heard::default());
    let attempt = sandbox.run_map(&prepared, call("{}"), items(0..10), host.clone(), &StopHandle::new()).await;
    assert_eq!(value(&attempt), "[0,1,2,3,4,5,6,7,8,9]");
    assert_eq!((host.lines.lock().unwrap().len(), attempt.log_dropped), (5, 6));
    assert_eq!(host.progress.lock().unwrap().len(), 2, "the first and the last");
}

#[tokio::test]
async fn what_is_asked_for_is_counted_over_all_items() {
    // Two submissions, and then the first byte of what came back: 1 for a refusal.
    let ask = "(call $submit (local.get $args) (local.get $args_len) (i32.const 104))";
    let body = format!(
        "{ask} {ask}
         (i32.store8 (i32.const 300) (i32.add (i32.const 48) (i32.load8_u (i32.const 104))))
         (return (call $ok (i32.const 300) (i32.const 1)))"
    );
    let host = Arc::new(Agrees::default());
    let prepared = with(&body).prepare().await;
    let attempt = SANDBOX.run_map(&prepared, call("{}"), items(0..600), host.clone(), &StopHandle::new()).await;
    let results: Vec<u8> = serde_json::from_str(value(&attempt)).unwrap();
    assert_eq!(results.iter().filter(|refused| **refused == 1).count(), 100);
    assert_eq!(host.submitted.load(Ordering::Relaxed), 1_000);
}

#[tokio::test]
async fn one_item_cannot_replace_the_job() {
    // Returns the length of the refusal's kind, `canvas_unavailable`: 18.
    let body = "(call $replace (local.get $args) (local.get $args_len) (i32.const 104))
                (if (i32.eqz (i32.load8_u (i32.const 104))) (then unreachable))
                (i32.store8 (i32.const 300) (i32.add (i32.const 48) (i32.div_u (i32.load (i32.const 112)) (i32.const 10))))
                (i32.store8 (i32.const 301) (i32.add (i32.const 48) (i32.rem_u (i32.load (i32.const 112)) (i32.const 10))))
                (return (call $ok (i32.const 300) (i32.const 2)))";
    let attempt = each(&with(body).prepare().await, call("{}"), items([1, 2])).await;
    assert_eq!(value(&attempt), "[18,18]");
}
