//! States of a task's own: shown with the progress, and bounded.

use serde_json::json;
use umbel_model::Progress;
use umbel_sandbox::{Call, SandboxConfig};

use crate::support::{Guest, Heard, call, failure, heard, run};

const IMPORTS: &str = r#"
  (import "umbel:task/context@0.1.0" "progress" (func $progress (param i64 i64 i32 i32)))
  (import "umbel:task/custom-state@0.1.0" "update" (func $update (param i32 i32 i32 i32 i32)))
"#;

fn guest(body: &str) -> Guest {
    let items = r#"(data (i32.const 1200) "\1b[1mloading")"#.into();
    Guest {
        imports: IMPORTS,
        items,
        ..Guest::running(format!("{body} (return (call $ok (i32.const 1110) (i32.const 2)))"))
    }
}

/// What was said at last, and the log.
async fn said(body: &str, call: Call) -> (Option<Progress>, Vec<String>) {
    let (_, host) = heard(&guest(body).prepare().await, call).await;
    let Heard { progress, lines } = &*host;
    let lines = lines.lock().unwrap().iter().map(|line| format!("{}: {}", line.context, line.message)).collect();
    (progress.lock().unwrap().last().cloned(), lines)
}

/// Updates to the state `loading` with its arguments as the meta.
const WITH_META: &str =
    "(call $update (i32.const 1200) (i32.const 11) (i32.const 1) (local.get $args) (local.get $args_len))";

#[tokio::test]
async fn a_state_and_the_progress_are_shown_together() {
    let body = format!("(call $progress (i64.const 1) (i64.const 2) (i32.const 1130) (i32.const 7)) {WITH_META}");
    let (progress, lines) = said(&body, call(r#"{"file": "a.csv"}"#)).await;
    let expected = Progress {
        done: 1,
        total: 2,
        message: "message".into(),
        state: Some("loading".into()),
        meta: Some(json!({"file": "a.csv"})),
    };
    assert_eq!(progress, Some(expected));
    assert!(lines.is_empty());
}

#[tokio::test]
async fn a_later_state_replaces_the_one_before_with_its_meta() {
    let body =
        format!("{WITH_META} (call $update (i32.const 1130) (i32.const 7) (i32.const 0) (i32.const 0) (i32.const 0))");
    let (progress, _) = said(&body, call("{}")).await;
    assert_eq!(progress.map(|p| (p.state, p.meta)), Some((Some("message".into()), None)));
}

#[tokio::test]
async fn meta_that_is_too_large_or_no_json_is_dropped_and_the_log_says_so() {
    for meta in [format!("\"{}\"", "x".repeat(16 << 10)), "{oops".into(), "[".repeat(200) + &"]".repeat(200)] {
        let (progress, lines) = said(WITH_META, call(&meta)).await;
        assert_eq!(progress.map(|p| (p.state, p.meta)), Some((Some("loading".into()), None)));
        assert!(lines.len() == 1 && lines[0].starts_with("umbel: the meta of state"), "{lines:?}");
    }
    let fits = format!("\"{}\"", "x".repeat((16 << 10) - 2));
    assert!(said(WITH_META, call(&fits)).await.0.unwrap().meta.is_some());
}

#[tokio::test]
async fn a_long_name_is_cut_and_a_flood_of_states_ends_with_its_fuel() {
    let long = "(memory.fill (i32.const 4096) (i32.const 97) (i32.const 1000))
                (call $update (i32.const 4096) (i32.const 1000) (i32.const 0) (i32.const 0) (i32.const 0))";
    assert_eq!(said(long, call("{}")).await.0.unwrap().state.unwrap().len(), 64);
    let flood = guest(&format!("(loop $again {WITH_META} (br $again))"));
    let mut call = call("{}");
    call.fuel = 10 * SandboxConfig::default().host_call_fuel;
    assert_eq!(failure(&run(&flood.prepare().await, call).await).kind, "out_of_fuel");
}
