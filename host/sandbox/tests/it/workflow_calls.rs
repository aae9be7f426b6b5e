//! Guests that ask for workflows, members and replacements, politely and not.

use std::sync::{Arc, Mutex};

use umbel_model::Progress;
use umbel_sandbox::{Attempt, Call, Host, LogLine, Refused, StopHandle, WorkflowNode};

use crate::support::{Guest, SANDBOX, call, failure, run, value};

const CANVAS: &str = r#"
  (import "umbel:task/canvas@0.1.0" "place" (func $place (param i32)))
  (import "umbel:task/canvas@0.1.0" "submit" (func $submit (param i32 i32 i32)))
  (import "umbel:task/canvas@0.1.0" "replace" (func $replace (param i32 i32 i32)))
  (import "umbel:task/canvas@0.1.0" "add-to-group" (func $add (param i32 i32 i32)))
"#;

/// `$answer` turns what is at 104 into a result: `"ok"`, or the kind of the failure. `$text` asks with so many bytes.
const ITEMS: &str = r#"
  (data (i32.const 1200) "\"ok\"")
  (func $answer (result i32)
    (if (i32.eqz (i32.load8_u (i32.const 104))) (then (return (call $ok (i32.const 1200) (i32.const 4)))))
    (call $quoted (i32.load (i32.const 108)) (i32.load (i32.const 112))))
  (func $quoted (param i32 i32) (result i32)
    (i32.store8 (i32.const 300) (i32.const 34))
    (memory.copy (i32.const 301) (local.get 0) (local.get 1))
    (i32.store8 (i32.add (i32.const 301) (local.get 1)) (i32.const 34))
    (call $ok (i32.const 300) (i32.add (i32.const 2) (local.get 1))))
"#;

/// Agrees to everything and keeps it.
#[derive(Default)]
struct Asked(Mutex<Vec<(&'static str, String)>>);

impl Asked {
    fn keep(&self, what: &'static str, text: &str) {
        self.0.lock().unwrap().push((what, text.to_owned()));
    }
}

impl Host for Asked {
    fn log(&self, _: LogLine) {}
    fn progress(&self, _: Progress) {}
    fn submit(&self, canvas: &str) -> Result<String, Refused> {
        self.keep("submit", canvas);
        Ok("01ARZ3NDEKTSV4RRFF00000000".into())
    }
    fn replace(&self, canvas: &str) -> Result<(), Refused> {
        self.keep("replace", canvas);
        Ok(())
    }
    fn add_to_group(&self, members: &str) -> Result<(), Refused> {
        self.keep("add", members);
        if members == "null" { Err(Refused::new("invalid_canvas", "not a list")) } else { Ok(()) }
    }
}

fn guest(body: &str) -> Guest {
    Guest { imports: CANVAS, items: ITEMS.into(), ..Guest::running(body) }
}

async fn asked(body: &str, call: Call) -> (Attempt, Vec<(&'static str, String)>) {
    let host = Arc::new(Asked::default());
    let attempt = SANDBOX.run(&guest(body).prepare().await, call, host.clone(), &StopHandle::new()).await;
    let asked = host.0.lock().unwrap().clone();
    (attempt, asked)
}

fn in_group(in_group: bool, call: Call) -> Call {
    let mut call = call;
    call.info.workflow_node = Some(WorkflowNode { workflow_id: "W1".into(), node: 7, in_group });
    call
}

/// Hands its arguments to a function, and answers how that was taken.
fn hand_over(function: &str) -> String {
    format!("(call ${function} (local.get $args) (local.get $args_len) (i32.const 104)) (return (call $answer))")
}

#[tokio::test]
async fn a_guest_submits_a_workflow_and_gets_its_id() {
    let body = "(call $submit (local.get $args) (local.get $args_len) (i32.const 104))
                (if (i32.load8_u (i32.const 104)) (then unreachable))
                (return (call $quoted (i32.load (i32.const 108)) (i32.load (i32.const 112))))";
    let (attempt, asked) = asked(body, call(r#"{"task": "ä"}"#)).await;
    assert_eq!(value(&attempt), "\"01ARZ3NDEKTSV4RRFF00000000\"");
    assert_eq!(asked, [("submit", r#"{"task": "ä"}"#.to_owned())]);
}

#[tokio::test]
async fn a_guest_is_replaced_once() {
    let again = "(call $replace (local.get $args) (local.get $args_len) (i32.const 104))";
    let (attempt, asked) = asked(&format!("{again} {}", hand_over("replace")), call("{}")).await;
    assert_eq!(value(&attempt), "\"already_replaced\"");
    assert_eq!(asked.len(), 1);
}

#[tokio::test]
async fn members_are_added_only_from_inside_of_a_group() {
    let add = hand_over("add");
    let (inside, heard) = asked(&add, in_group(true, call("[]"))).await;
    assert_eq!((value(&inside), heard), ("\"ok\"", vec![("add", "[]".to_owned())]));
    let (refused, _) = asked(&add, in_group(true, call("null"))).await;
    assert_eq!(value(&refused), "\"invalid_canvas\"", "a refusal of the host reaches the guest");
    for outside in [in_group(false, call("[]")), call("[]")] {
        let (attempt, heard) = asked(&add, outside).await;
        assert_eq!((value(&attempt), heard.len()), ("\"not_in_group\"", 0));
    }
}

#[tokio::test]
async fn a_guest_knows_its_place() {
    let body = "(call $place (i32.const 104))
                (if (i32.eqz (i32.load8_u (i32.const 104))) (then (return (call $ok (i32.const 1200) (i32.const 4)))))
                (if (i32.ne (i32.load (i32.const 116)) (i32.const 7)) (then unreachable))
                (if (i32.ne (i32.load8_u (i32.const 120)) (i32.const 1)) (then unreachable))
                (return (call $quoted (i32.load (i32.const 108)) (i32.load (i32.const 112))))";
    let (attempt, _) = asked(body, in_group(true, call("{}"))).await;
    assert_eq!(value(&attempt), "\"W1\"");
    let (attempt, _) = asked(body, call("{}")).await;
    assert_eq!(value(&attempt), "\"ok\"");
}

#[tokio::test]
async fn where_there_are_no_workflows_they_are_refused() {
    for function in ["submit", "replace"] {
        let attempt = run(&guest(&hand_over(function)).prepare().await, call("{}")).await;
        assert_eq!(value(&attempt), "\"canvas_unavailable\"");
    }
}

#[tokio::test]
async fn a_flood_of_submissions_is_refused_and_charged() {
    let flood = |times: u32| {
        format!(
            "(loop $l
               (call $submit (local.get $args) (local.get $args_len) (i32.const 104))
               (local.set $i (i32.add (local.get $i) (i32.const 1)))
               (br_if $l (i32.lt_u (local.get $i) (i32.const {times}))))
             (return (call $answer))"
        )
    };
    let (attempt, heard) = asked(&flood(5_000), call("{}")).await;
    assert_eq!(value(&attempt), "\"host_limit:canvas_calls\"");
    assert_eq!(heard.len(), 1_000);
    assert!(attempt.usage.fuel > 5_000_000, "refused calls are charged too: {:?}", attempt.usage);
    let (attempt, heard) = asked(&flood(u32::MAX), Call { fuel: 50_000_000, ..call("{}") }).await;
    assert_eq!(failure(&attempt).kind, "out_of_fuel");
    assert_eq!(heard.len(), 1_000);
}

/// Asks `$i` times with a text of so many letters.
fn letters(function: &str, bytes: u32, times: u32) -> String {
    format!(
        "(drop (memory.grow (i32.const 100))) (memory.fill (i32.const 9000) (i32.const 97) (i32.const {bytes}))
         (loop $l
           (call ${function} (i32.const 9000) (i32.const {bytes}) (i32.const 104))
           (local.set $i (i32.add (local.get $i) (i32.const 1)))
           (br_if $l (i32.lt_u (local.get $i) (i32.const {times}))))
         (return (call $answer))"
    )
}

#[tokio::test]
async fn huge_texts_are_refused_before_anybody_reads_them() {
    for function in ["submit", "replace", "add"] {
        for bytes in [(1 << 20) + 1, 4 << 20] {
            let (attempt, heard) = asked(&letters(function, bytes, 1), in_group(true, call("{}"))).await;
            assert_eq!(value(&attempt), "\"host_limit:canvas_bytes\"", "{function} {bytes}");
            assert!(heard.is_empty());
        }
        let (attempt, heard) = asked(&letters(function, 5 << 20, 1), call("{}")).await;
        assert_eq!(failure(&attempt).kind, "host_limit:call");
        assert!(heard.is_empty());
    }
    let (attempt, heard) = asked(&letters("submit", 1 << 20, 1), call("{}")).await;
    assert_eq!((value(&attempt), heard.len()), ("\"ok\"", 1));
    assert!(attempt.usage.fuel > 20 << 20, "bytes are charged: {:?}", attempt.usage);
}

#[tokio::test]
async fn many_large_texts_are_refused_when_they_are_too_much_together() {
    let (attempt, heard) = asked(&letters("submit", 1 << 20, 6), call("{}")).await;
    assert_eq!((value(&attempt), heard.len()), ("\"host_limit:canvas_bytes\"", 4));
}

#[tokio::test]
async fn what_is_not_text_is_a_trap_and_not_a_request() {
    let bodies = [
        "(i32.store8 (i32.const 900) (i32.const 255)) (call $submit (i32.const 900) (i32.const 1) (i32.const 104))",
        "(call $submit (i32.const -16) (i32.const 16) (i32.const 104))",
        "(call $submit (i32.const 16) (i32.const -1) (i32.const 104))",
        "(call $submit (i32.const 16) (i32.const 1) (i32.const -4))",
    ];
    for body in bodies {
        let (attempt, _) = asked(body, call("{}")).await;
        let kind = &failure(&attempt).kind;
        assert!(kind.starts_with("trap:") || kind == "host_limit:call", "{kind} {body}");
    }
}
