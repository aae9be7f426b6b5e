//! The output of the macros as a host sees it: descriptions, runs, outcomes. Natively, with the fake context.

use std::{fmt, time::Duration};

use serde_json::{Value, json};
use umbel::{prelude::*, raw::Outcome, raw::TaskDescription};
use umbel_model::{PolicyBounds, PolicyPatch, TaskName};

#[derive(Deserialize, Serialize, JsonSchema, Debug, PartialEq)]
struct Address {
    street: String,
    city: Option<String>,
}

#[derive(Serialize)]
struct Opaque {
    ok: bool,
}

#[derive(Debug)]
struct Declined;

impl fmt::Display for Declined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the card was declined")
    }
}

impl std::error::Error for Declined {}

/// Adds two numbers.
///
/// The second is 10
/// unless given.
#[task(
    queue = "critical",
    priority = 9,
    max_retries = 3,
    retry_backoff = "1s..10m",
    time_limit = "30s",
    soft_time_limit = "25s",
    fuel = "10G",
    memory = "16MiB",
    max_deliveries = 2,
    expires = "1h",
    result_ttl = "1d",
    dead_ttl = "14d",
    rate_limit = "100/m",
    permissions = ["secret api_key", "http get https://API.example.com"]
)]
fn add(
    x: i64,
    /// What is added.
    #[default(10)]
    y: i64,
) -> i64 {
    x + y
}

#[task(name = "shop.deliver", max_retries = "unlimited", retry_backoff = "5s")]
fn deliver(
    ctx: &Context,
    to: Address,
    mut tags: Vec<String>,
    note: Option<String>,
    #[default("eu")] region: String,
    #[default] weights: Vec<f64>,
    r#type: u8,
) -> TaskResult<Opaque> {
    tags.sort();
    ctx.info(format!(
        "{} to {} in {region}: {tags:?} {note:?} {weights:?} {type}",
        ctx.job_id(),
        to.street,
        r#type = r#type
    ));
    ctx.progress(1, 1, "done");
    Ok(Opaque { ok: true })
}

#[task(fuel = 1000, retry_jitter = false)]
fn fails(ctx: &Context, how: String) -> TaskResult<()> {
    match how.as_str() {
        "error" => Err(Declined)?,
        "parse" => drop("x".parse::<u8>()?),
        "text" => Err("plain text")?,
        "fatal" => return Err(Fatal::new("void order").kind("Void").details(json!({"order": 1})).into()),
        "retry" => Err(Retry::new("once more").kind("Busy"))?,
        "after" => Err(RetryAfter::new(Duration::from_secs(7), "slow down"))?,
        "snooze" => Err(Snooze::new(Duration::from_millis(1_500)))?,
        "reject" => Err(Reject::new("not for me"))?,
        "ignore" => Err(Ignore)?,
        _ => ctx.sleep(Duration::from_secs(1)),
    }
    Ok(())
}

#[task(retry_backoff = "off")]
fn own_error(decline: bool) -> Result<&'static str, Declined> {
    if decline { Err(Declined) } else { Ok("paid") }
}

type Hidden = std::result::Result<u8, String>;

#[task]
fn hidden_result(ok: bool) -> Hidden {
    if ok { Ok(1) } else { Err("hidden".to_owned()) }
}

#[task]
fn nothing() {}

#[task]
fn unspeakable() -> impl Serialize {
    [1, 2]
}

#[task]
fn not_json(bad: bool) -> std::collections::BTreeMap<Option<u8>, u8> {
    std::iter::once((if bad { None } else { Some(1) }, 2)).collect()
}

#[derive(Deserialize, Serialize, JsonSchema)]
struct Order {
    customer: u32,
}

#[task(
    retry_on = ["Timeout", "trap:*", "out_of_fuel"],
    dont_retry_on = ["trap:unreachable"],
    retry_fuel_factor = 2,
    throws = ["Declined"],
    retry_multiplier = 3,
    acks = "early",
    on_worker_lost = "fail",
    ignore_result = true,
    store_errors_even_if_ignored = false,
    rate_limit = "100 / m",
    rate_burst = 10,
    concurrency = 4,
    limit_key = "kwargs.order.customer",
    key_rate_limit = "10/s",
    key_rate_burst = 2,
    key_concurrency = 1,
    unique = "latest",
    unique_by = ["args[0].customer", "kwargs.type"],
    debounce = "5s",
    debounce_max_wait = "1m"
)]
fn all_options(order: Order, r#type: String) -> u32 {
    order.customer + r#type.len() as u32
}

#[task(unique = "first", unique_for = "10m", retry_backoff = "1s..1m", retry_multiplier = 4, retry_jitter = false)]
fn once(r#loop: u8) -> u8 {
    r#loop
}

mod nested {
    use umbel::prelude::*;

    #[task]
    pub fn inner(x: u8) -> u8 {
        x
    }
}

umbel::module![
    add,
    deliver,
    fails,
    own_error,
    hidden_result,
    nothing,
    unspeakable,
    not_json,
    all_options,
    once,
    nested::inner,
    permissions: ["kv cursors read"],
];

fn described(name: &str) -> TaskDescription {
    umbel_module::describe().into_iter().find(|task| task.name == name).expect("the module has this task")
}

fn parsed(json: &str) -> Value {
    serde_json::from_str(json).expect("descriptions are JSON")
}

#[test]
fn the_function_is_still_a_function() {
    assert_eq!(add(2, 3), 5);
    assert_eq!(nested::inner(4), 4);
}

#[test]
fn parameters_are_described_by_name_schema_and_default() {
    let task = described("add");
    assert_eq!(task.description, "Adds two numbers.\n\nThe second is 10\nunless given.");
    let x = &task.parameters[0];
    assert_eq!((x.name.as_str(), x.default.as_deref()), ("x", None));
    assert_eq!(parsed(&x.schema)["type"], "integer");
    let y = &task.parameters[1];
    assert_eq!((y.name.as_str(), y.default.as_deref()), ("y", Some("10")));
    assert_eq!(parsed(&y.schema)["description"], "What is added.");
    assert_eq!(parsed(&task.returns.unwrap())["type"], "integer");
}

#[test]
fn permissions_are_declared_for_the_module_and_for_its_tasks_in_their_usual_spelling() {
    let declared: Vec<_> = umbel_module::permissions().into_iter().map(|one| (one.task, one.permission)).collect();
    let of = |task: Option<&str>, text: &str| (task.map(str::to_owned), text.to_owned());
    let expected = [
        of(None, "kv cursors read"),
        of(Some("add"), "secret api_key"),
        of(Some("add"), "http GET https://api.example.com/"),
    ];
    assert_eq!(declared, expected);
}

#[test]
fn defaults_are_the_values_of_their_expressions_and_options_default_to_null() {
    let task = described("shop.deliver");
    let defaults: Vec<_> = task.parameters.iter().map(|p| (p.name.as_str(), p.default.as_deref())).collect();
    let expected = [
        ("to", None),
        ("tags", None),
        ("note", Some("null")),
        ("region", Some("\"eu\"")),
        ("weights", Some("[]")),
        ("type", None),
    ];
    assert_eq!(defaults, expected);
    assert_eq!(task.returns, None, "a result without a schema says nothing");
    assert_eq!(described("unspeakable").returns, None);
    assert_eq!(parsed(&described("own_error").returns.unwrap())["type"], "string");
    assert_eq!(parsed(&described("hidden_result").returns.unwrap())["format"], "uint8");
    assert_eq!(parsed(&described("nothing").returns.unwrap())["type"], "null");
}

#[test]
fn every_schema_is_valid_and_every_default_fits_its_own() {
    for task in umbel_module::describe() {
        TaskName::new(&task.name).unwrap();
        for parameter in task.parameters {
            let validator = jsonschema::draft202012::new(&parsed(&parameter.schema)).unwrap();
            if let Some(default) = parameter.default {
                validator.validate(&parsed(&default)).unwrap();
            }
        }
    }
}

#[test]
fn every_policy_is_one_that_the_server_reads() {
    for task in umbel_module::describe() {
        let patch: PolicyPatch = serde_json::from_str(&task.policy).unwrap();
        PolicyBounds::default().check(&umbel_model::Policy::resolve(&patch)).unwrap();
    }
}

#[test]
fn options_become_the_policy_fields_of_the_same_meaning() {
    let expected = json!({
        "queue": "critical", "priority": 9, "max_retries": 3,
        "retry_backoff": {"initial_ms": 1_000, "max_ms": 600_000, "jitter": true},
        "time_limit_ms": 30_000, "soft_time_limit_ms": 25_000, "fuel": 10_000_000_000_u64, "memory_bytes": 16 << 20,
        "max_deliveries": 2, "expires_ms": 3_600_000, "result_ttl_ms": 86_400_000, "dead_ttl_ms": 14 * 86_400_000_u64,
        "rate_limit": "100/m",
    });
    assert_eq!(parsed(&described("add").policy), expected);
    let patient = json!({"initial_ms": 5_000, "max_ms": 5_000, "jitter": false});
    assert_eq!(parsed(&described("shop.deliver").policy), json!({"retries_unlimited": true, "retry_backoff": patient}));
    assert_eq!(parsed(&described("fails").policy), json!({"fuel": 1_000, "retry_backoff": {"jitter": false}}));
    let at_once = json!({"initial_ms": 0, "max_ms": 0, "jitter": false});
    assert_eq!(parsed(&described("own_error").policy), json!({"retry_backoff": at_once}));
    assert_eq!(described("nothing").policy, "{}");
}

#[test]
fn every_option_of_the_attribute_is_the_field_of_that_name() {
    let expected = json!({
        "retry_on": ["Timeout", "trap:*", "out_of_fuel"], "dont_retry_on": ["trap:unreachable"], "retry_fuel_factor": 2,
        "throws": ["Declined"], "retry_backoff": {"multiplier": 3}, "acks": "early", "on_worker_lost": "fail",
        "ignore_result": true, "store_errors_even_if_ignored": false, "rate_limit": "100/m", "rate_burst": 10,
        "concurrency": 4, "limit_key": "kwargs.order.customer", "key_rate_limit": "10/s", "key_rate_burst": 2,
        "key_concurrency": 1, "unique": "latest", "unique_by": ["args[0].customer", "kwargs.type"],
        "debounce_ms": 5_000, "debounce_max_wait_ms": 60_000,
    });
    assert_eq!(parsed(&described("all_options").policy), expected);
    let backoff = json!({"initial_ms": 1_000, "max_ms": 60_000, "multiplier": 4, "jitter": false});
    let expected = json!({"unique": "first", "unique_for_ms": 600_000, "retry_backoff": backoff});
    assert_eq!(parsed(&described("once").policy), expected);
    for (task, parameters) in [("all_options", ["order", "type"].as_slice()), ("once", &["loop"])] {
        let policy: PolicyPatch = serde_json::from_str(&described(task).policy).expect("it is a policy");
        let policy = umbel_model::Policy::resolve(&policy);
        assert_eq!(PolicyBounds::default().check(&policy), Ok(()), "{task}");
        // The host reads each expression as the macro did.
        for text in policy.unique_by.iter().chain(Some(&policy.limit_key).filter(|key| !key.is_empty())) {
            let expression = umbel_model::Expression::parse(text).expect("it is an expression");
            assert!(expression.parameter(parameters.iter().copied()).is_some(), "{text}");
        }
    }
}

#[test]
fn a_run_binds_by_name_and_fills_defaults() {
    assert_eq!(umbel_module::run("add", r#"{"y":1,"x":2}"#).unwrap(), "3");
    assert_eq!(umbel_module::run("add", r#"{"x":2}"#).unwrap(), "12");
    assert_eq!(umbel_module::run("nothing", "{}").unwrap(), "null");
    assert_eq!(umbel_module::run("unspeakable", "{}").unwrap(), "[1,2]");
    assert_eq!(umbel_module::run("inner", r#"{"x":7}"#).unwrap(), "7");
}

#[test]
fn a_task_logs_and_reports_progress_through_its_context() {
    let ctx = Context::fake().with_job_id("j7");
    let arguments = json!({"to": {"street": "Elm", "city": null}, "tags": ["b", "a"], "type": 3});
    assert_eq!(umbel_module::run_with(&ctx, "shop.deliver", &arguments.to_string()).unwrap(), r#"{"ok":true}"#);
    assert_eq!(ctx.logs()[0].message, r#"j7 to Elm in eu: ["a", "b"] None [] 3"#);
    assert_eq!(ctx.progress_reports().len(), 1);
}

#[test]
fn each_way_to_fail_is_its_own_outcome() {
    let run = |how: &str| umbel_module::run("fails", &json!({ "how": how }).to_string()).unwrap_err();
    let retryable = |how: &str| match run(how) {
        Outcome::Error(error) => (error.failure.kind, error.failure.message, error.retry_after_ms),
        other => panic!("{other:?}"),
    };
    assert_eq!(retryable("error"), ("Declined".into(), "the card was declined".into(), None));
    assert_eq!(retryable("parse").0, "ParseIntError");
    assert_eq!(retryable("text"), ("error".into(), "plain text".into(), None));
    assert_eq!(retryable("retry"), ("Busy".into(), "once more".into(), None));
    assert_eq!(retryable("after").2, Some(7_000));
    assert_eq!(run("snooze"), Outcome::Snooze(1_500));
    assert_eq!(run("reject"), Outcome::Reject("not for me".into()));
    assert_eq!(run("ignore"), Outcome::Ignore);
    match run("fatal") {
        Outcome::Fatal(failure) => {
            assert_eq!((failure.kind.as_str(), failure.message.as_str()), ("Void", "void order"));
            assert_eq!(failure.details.as_deref(), Some(r#"{"order":1}"#));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_error_type_of_ones_own_and_an_alias_of_result_are_errors_and_not_values() {
    assert_eq!(umbel_module::run("own_error", r#"{"decline":false}"#).unwrap(), r#""paid""#);
    let error = umbel_module::run("own_error", r#"{"decline":true}"#).unwrap_err();
    assert!(matches!(error, Outcome::Error(e) if e.failure.kind == "Declined"));
    assert_eq!(umbel_module::run("hidden_result", r#"{"ok":true}"#).unwrap(), "1");
    let error = umbel_module::run("hidden_result", r#"{"ok":false}"#).unwrap_err();
    assert!(matches!(error, Outcome::Error(e) if e.failure.message == "hidden"));
}

#[test]
fn what_cannot_be_read_or_written_is_a_final_failure_with_a_name() {
    let fatal = |task: &str, arguments: &str| match umbel_module::run(task, arguments) {
        Err(Outcome::Fatal(failure)) => failure.kind,
        other => panic!("{other:?}"),
    };
    assert_eq!(fatal("add", r#"{"y":1}"#), "bad_arguments");
    assert_eq!(fatal("add", r#"{"x":"1"}"#), "bad_arguments");
    assert_eq!(fatal("add", "[1"), "bad_arguments");
    assert_eq!(fatal("not_json", r#"{"bad":true}"#), "bad_output");
    assert_eq!(fatal("subtract", "{}"), "unknown_task");
}
