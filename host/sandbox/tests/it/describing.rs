//! What a module says about itself is checked word by word.

use std::path::PathBuf;

use umbel_model::PolicyBounds;
use umbel_sandbox::{DescribeError, Described};

use crate::support::{Guest, SANDBOX, embed_world, prepare};

async fn describe(guest: Guest) -> Result<Vec<umbel_model::TaskDescription>, DescribeError> {
    Ok(SANDBOX.describe(&guest.prepare().await, &PolicyBounds::default()).await?.tasks)
}

/// A module that declares one permission, for a task if its name is not empty.
async fn declaring(task: &str, permission: &str) -> Result<Described, DescribeError> {
    let (task_len, len, has_task) = (task.len(), permission.len(), i32::from(!task.is_empty()));
    let items = format!(
        r#"(data (i32.const 1200) "{task}") (data (i32.const 1300) "{permission}")
        (func (export "umbel:task/permissions@0.1.0#declare") (result i32)
          (i32.store (i32.const 3000) (i32.const 3008)) (i32.store (i32.const 3004) (i32.const 1))
          (i32.store8 (i32.const 3008) (i32.const {has_task}))
          (i32.store (i32.const 3012) (i32.const 1200)) (i32.store (i32.const 3016) (i32.const {task_len}))
          (i32.store (i32.const 3020) (i32.const 1300)) (i32.store (i32.const 3024) (i32.const {len}))
          (i32.const 3000))"#
    );
    let mut module = Guest { items, ..Guest::default() }.build();
    embed_world(&mut module, PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../wit"), "declaring");
    SANDBOX.describe(&prepare(&module).await, &PolicyBounds::default()).await
}

#[tokio::test]
async fn what_a_module_declares_is_read_for_all_tasks_or_for_one() {
    let all = declaring("", "kv x read").await.unwrap();
    assert_eq!(serde_json::to_string(&all.permissions).unwrap(), r#"{"module":["kv x read"]}"#);
    let one = declaring("task", "secret s").await.unwrap();
    assert_eq!(serde_json::to_string(&one.permissions).unwrap(), r#"{"tasks":{"task":["secret s"]}}"#);
    assert!(describe(Guest::default()).await.is_ok(), "a module need not declare anything");
}

#[tokio::test]
async fn what_is_no_permission_is_refused_with_the_text_and_what_to_write() {
    for (task, permission, expected) in [
        ("task", "kv", "task \"task\": permission \"kv\": write `kv BUCKET` or `kv BUCKET read`"),
        ("", "http ftp://a", "permission \"http ftp://a\": begin the URL with https://"),
        ("", "network 10.0.0.0/8", "only an operator can grant it"),
        ("other", "kv x", "task \"other\": permissions are declared for this task, which the module does not describe"),
    ] {
        let error = declaring(task, permission).await.unwrap_err();
        assert_eq!(error.code(), "invalid_permission", "{error}");
        assert!(error.to_string().starts_with(expected) || error.to_string().contains(expected), "{error}");
    }
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
