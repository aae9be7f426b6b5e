//! What a guest is told of the schedule that started its job.

use std::sync::Arc;

use umbel_sandbox::{Call, Discard, Fire, StopHandle};

use crate::support::{Guest, SANDBOX, call, value};

const IMPORT: &str = r#"(import "umbel:task/schedule@0.1.0" "current" (func $fire (param i32)))"#;

/// Answers the schedule's name, `{}` for none; stops when the times are others.
const BODY: &str = r#"
  (call $fire (i32.const 104))
  (if (i32.eqz (i32.load8_u (i32.const 104))) (then (return (call $ok (i32.const 1110) (i32.const 2)))))
  (if (i64.ne (i64.load (i32.const 120)) (i64.const 1800000000000)) (then unreachable))
  (if (i64.ne (i64.load (i32.const 128)) (i64.const 1800000000250)) (then unreachable))
  (i32.store8 (i32.const 300) (i32.const 34))
  (memory.copy (i32.const 301) (i32.load (i32.const 112)) (i32.load (i32.const 116)))
  (i32.store8 (i32.add (i32.const 301) (i32.load (i32.const 116))) (i32.const 34))
  (return (call $ok (i32.const 300) (i32.add (i32.const 2) (i32.load (i32.const 116)))))
"#;

async fn told(call: Call) -> String {
    let guest = Guest { imports: IMPORT, ..Guest::running(BODY) };
    let attempt = SANDBOX.run(&guest.prepare().await, call, Arc::new(Discard), &StopHandle::new()).await;
    value(&attempt).to_owned()
}

#[tokio::test]
async fn a_guest_reads_the_schedule_and_both_times_and_nothing_without_a_schedule() {
    let mut fired = call("{}");
    let fire = Fire { schedule: "nightly".into(), nominal_ms: 1_800_000_000_000, fired_ms: 1_800_000_000_250 };
    fired.info.fire = Some(fire);
    assert_eq!(told(fired).await, "\"nightly\"");
    assert_eq!(told(call("{}")).await, "{}");
}
