//! What a module says about itself is checked word by word.

use umbel_model::PolicyBounds;
use umbel_sandbox::DescribeError;

use crate::support::{Guest, SANDBOX};

async fn describe(guest: Guest) -> Result<Vec<umbel_model::TaskDescription>, DescribeError> {
    SANDBOX.describe(&guest.prepare().await, &PolicyBounds::default()).await
}

fn describing(items: &str, describe: &str) -> Guest {
    Guest { items: items.into(), describe: describe.into(), ..Guest::default() }
}

async fn refusal(guest: Guest) -> (&'static str, String) {
    let error = describe(guest).await.unwrap_err();
    (error.code(), error.to_string())
}

#[tokio::test]
async fn an_honest_module_is_described() {
    let tasks = describe(Guest::default()).await.unwrap();
    assert_eq!(tasks.len(), 1);
    assert_eq!(tasks[0].name.as_str(), "task");
    assert!(tasks[0].policy.is_empty() && tasks[0].parameters.is_empty());
}

#[tokio::test]
async fn a_description_that_spins_or_traps_or_eats_memory_is_refused_by_name() {
    let (code, message) = refusal(describing("", "(loop $l (br $l))")).await;
    assert_eq!(code, "describe_failed");
    assert!(message.contains("out_of_fuel") || message.contains("deadline"), "{message}");
    let (code, message) = refusal(describing("", "unreachable")).await;
    assert_eq!(code, "describe_failed");
    assert!(message.contains("trap:unreachable"), "{message}");
    let grow = "(loop $l (br_if $l (i32.ne (i32.const -1) (memory.grow (i32.const 16))))) unreachable";
    let (code, message) = refusal(describing("", grow)).await;
    assert_eq!(code, "describe_failed");
    assert!(message.contains("memory"), "{message}");
}

#[tokio::test]
async fn ten_thousand_tasks_are_refused_by_their_number() {
    let body = "(drop (memory.grow (i32.const 10)))
        (loop $l
          (call $task (i32.add (i32.const 8192) (i32.mul (local.get $i) (i32.const 44))) (i32.const 1100) (i32.const 4))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_if $l (i32.lt_u (local.get $i) (i32.const 10000))))
        (i32.store (i32.const 2048) (i32.const 8192)) (i32.store (i32.const 2052) (i32.const 10000))
        (return (i32.const 2048))";
    let (code, message) = refusal(describing("", body)).await;
    assert_eq!(code, "describe_invalid");
    assert!(message.contains("10000 tasks"), "{message}");
}

#[tokio::test]
async fn a_description_that_lies_about_its_length_is_refused() {
    for (address, length) in [(8_192, -1_i32), (8_192, 100_000_000), (-4, 1), (2_049, 1)] {
        let body = format!(
            "(i32.store (i32.const 2048) (i32.const {address})) (i32.store (i32.const 2052) (i32.const {length}))
             (return (i32.const 2048))"
        );
        assert_eq!(refusal(describing("", &body)).await.0, "describe_invalid", "{address} {length}");
    }
}

#[tokio::test]
async fn bad_names_policies_and_twins_are_refused() {
    let cases = [
        (
            r#"(data (i32.const 1200) "no good")"#,
            "(return (call $one_task (i32.const 1200) (i32.const 7)))",
            "is not valid",
        ),
        (
            r#"(data (i32.const 1200) "{\"max_retry\": 1}")"#,
            "(drop (call $one_task (i32.const 1100) (i32.const 4))) (i32.store (i32.const 2092) (i32.const 1200))
             (i32.store (i32.const 2096) (i32.const 16)) (return (i32.const 2048))",
            "did you mean `max_retries`?",
        ),
        (
            r#"(data (i32.const 1200) "{\"priority\": 99}")"#,
            "(drop (call $one_task (i32.const 1100) (i32.const 4))) (i32.store (i32.const 2092) (i32.const 1200))
             (i32.store (i32.const 2096) (i32.const 16)) (return (i32.const 2048))",
            "`priority`",
        ),
        (
            "",
            "(drop (call $one_task (i32.const 1100) (i32.const 4)))
             (call $task (i32.const 2100) (i32.const 1100) (i32.const 4))
             (i32.store (i32.const 2052) (i32.const 2)) (return (i32.const 2048))",
            "twice",
        ),
        ("", "(return (i32.const 512))", "no task"),
    ];
    for (items, body, expected) in cases {
        let (code, message) = refusal(describing(items, body)).await;
        assert_eq!(code, "describe_invalid", "{body}");
        assert!(message.contains(expected), "{message}");
    }
}

#[tokio::test]
async fn schemas_whose_trees_take_the_hosts_memory_are_refused() {
    // 256 tasks, each with a result of 7 KB of objects: 1.7 MB of text, and half a gigabyte when it is parsed.
    let schema = format!("[{}0]", r#"{},"#.repeat(2_300)).replace('"', "\\\"");
    let items = format!(r#"(data (i32.const 9000) "{schema}")"#);
    let body = format!(
        "(drop (memory.grow (i32.const 10)))
         (loop $l
           (call $task (i32.add (i32.const 20000) (i32.mul (local.get $i) (i32.const 44))) (i32.const 1100) (i32.const 4))
           (i32.store offset=24 (i32.add (i32.const 20000) (i32.mul (local.get $i) (i32.const 44))) (i32.const 1))
           (i32.store offset=28 (i32.add (i32.const 20000) (i32.mul (local.get $i) (i32.const 44))) (i32.const 9000))
           (i32.store offset=32 (i32.add (i32.const 20000) (i32.mul (local.get $i) (i32.const 44))) (i32.const {}))
           (local.set $i (i32.add (local.get $i) (i32.const 1)))
           (br_if $l (i32.lt_u (local.get $i) (i32.const 256))))
         (i32.store (i32.const 2048) (i32.const 20000)) (i32.store (i32.const 2052) (i32.const 256))
         (return (i32.const 2048))",
        2_300 * 3 + 3
    );
    let (code, message) = refusal(describing(&items, &body)).await;
    assert_eq!(code, "describe_invalid");
    assert!(message.contains("too many values"), "{message}");
}
