//! Everything that a guest can do wrong while it runs. Each task does one thing, and the host must end it with an
//! outcome of that name and within its limits.
//!
//! Written against the raw contract, because the SDK's macros do not let a task misbehave in most of these ways.

use std::hint::black_box;

use umbel::raw::{
    Failure, Guest, Level, Outcome, Parameter, Retryable, TaskDescription,
    umbel::task::{canvas, context},
    wasi::{clocks::monotonic_clock, logging::logging},
};

/// The result of a task without parameters.
type Run = fn() -> Result<String, Outcome>;

/// Name, what it does, and its policy. Time is short so that a test of a loop ends soon.
const TASKS: &[(&str, &str, &str, Run)] = &[
    ("spin", "Loops for ever, asking the host for the time.", SHORT, spin),
    ("spin_quiet", "Loops for ever without calling the host.", SHORT, spin_quiet),
    ("allocate", "Takes memory until there is none.", SHORT, allocate),
    ("recurse", "Calls itself until the stack is used up.", SHORT, || Ok(recurse(1).to_string())),
    ("recurse_frames", "Calls itself with large frames in linear memory.", SHORT, || Ok(recurse_frames(1).to_string())),
    ("flood_log", "Logs for ever, long lines and terminal escapes among them.", SHORT, flood_log),
    ("flood_progress", "Reports progress for ever.", SHORT, flood_progress),
    ("flood_result", "Fails with a kind, a message and details of megabytes.", LARGE, flood_result),
    ("hoard_handles", "Makes timers for ever and drops none.", SHORT, hoard_handles),
    ("sleep", "Sleeps for an hour.", SHORT, sleep),
    ("panic", "Panics.", SHORT, || panic!("this task always panics")),
    ("bad_json", "Returns text that is not JSON.", SHORT, || Ok("{\"half\":".to_owned())),
    ("return_100mb", "Returns a hundred megabytes.", LARGE, return_100mb),
    ("million_calls", "Calls the host a million times, then ends.", CALLS, million_calls),
    ("retry_forever", "Fails every time, and may always be retried.", FOREVER, retry_forever),
    ("lie", "Says that it returns an integer, and returns a text.", SHORT, || Ok("\"not an integer\"".to_owned())),
    ("deep_json", "Returns JSON that is nested a hundred thousand times.", SHORT, deep_json),
    ("flood_submit", "Submits workflows for ever.", SHORT, flood_submit),
    ("flood_members", "Adds members to its group for ever.", SHORT, flood_members),
    ("replace_forever", "Is replaced by itself, for ever.", SHORT, || replaced(SELF)),
    ("replace_twice", "Is replaced twice, which it may not.", SHORT, replace_twice),
    ("replace_and_fail", "Is replaced, and fails all the same.", SHORT, replace_and_fail),
    ("fork_bomb", "Submits two workflows of itself.", SHORT, fork_bomb),
    ("fan_out", "Submits a group of fifty thousand members.", LARGE, || submitted(&fan_out(50_000))),
    ("fan_out_of_itself", "Is replaced by a thousand of itself.", SHORT, || {
        replaced(&many("fan_out_of_itself", 1_000))
    }),
    ("canvas_2mb", "Submits a canvas of two megabytes.", LARGE, || submitted(&fan_out_text(2 << 20))),
    ("canvas_20mb", "Submits a canvas of twenty megabytes.", LARGE, || submitted(&fan_out_text(20 << 20))),
    ("canvas_deep", "Submits a canvas of eighty thousand steps within steps.", SHORT, || submitted(&deep_canvas())),
    ("canvas_bad", "Submits what is no canvas.", SHORT, || submitted("{\"half\":")),
    ("canvas_of_strangers", "Submits a task that does not exist.", SHORT, || submitted(r#"{"task":"no.such.task"}"#)),
    ("snooze_forever", "Asks to be run again later than the world ends.", SHORT, || Err(Outcome::Snooze(u64::MAX))),
];

const SHORT: &str = r#"{"time_limit_ms":2000,"max_retries":0}"#;
const LARGE: &str = r#"{"time_limit_ms":10000,"max_retries":0,"memory_bytes":268435456}"#;
const CALLS: &str = r#"{"time_limit_ms":30000,"max_retries":0}"#;
const FOREVER: &str = r#"{"retries_unlimited":true,"retry_backoff":{"initial_ms":50,"max_ms":200,"jitter":false}}"#;

fn spin() -> Result<String, Outcome> {
    loop {
        black_box(context::remaining_ms());
        black_box(context::should_stop());
    }
}

fn spin_quiet() -> Result<String, Outcome> {
    let mut n = 0_u64;
    loop {
        n = black_box(n.wrapping_add(1));
    }
}

fn allocate() -> Result<String, Outcome> {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    loop {
        // Written to, so that the pages are really there.
        kept.push(black_box(vec![1; 1 << 20]));
    }
}

/// No local has an address, so only the machine's stack grows; two operations after the call keep it from becoming a
/// loop.
#[inline(never)]
#[allow(unconditional_recursion)]
fn recurse(n: u64) -> u64 {
    if n == 0 { 1 } else { recurse(n.wrapping_add(2)).rotate_left(3) ^ n }
}

#[inline(never)]
fn recurse_frames(n: u64) -> u64 {
    let frame = black_box([n; 64]);
    if n == 0 { 1 } else { recurse_frames(n.wrapping_add(2)) ^ frame[(n % 64) as usize] }
}

fn flood_log() -> Result<String, Outcome> {
    let long = "x".repeat(1 << 20);
    loop {
        logging::log(Level::Info, "hostile", "one of very many lines \u{1b}[2J\u{1b}[31m\r\n\0forged line");
        logging::log(Level::Critical, &long, &long);
    }
}

fn flood_progress() -> Result<String, Outcome> {
    let mut done = 0;
    loop {
        done += 1;
        context::progress(done, 0, "still going \u{1b}[2J");
    }
}

fn flood_result() -> Result<String, Outcome> {
    let kind = "k".repeat(4 << 20);
    let message = "\u{1b}[31m".repeat(4 << 20);
    let details = format!("\"{}\"", "d".repeat(16 << 20));
    Err(Outcome::Fatal(Failure { kind, message, details: Some(details) }))
}

fn hoard_handles() -> Result<String, Outcome> {
    let mut kept = Vec::new();
    loop {
        kept.push(monotonic_clock::subscribe_duration(3_600_000_000_000));
    }
}

fn sleep() -> Result<String, Outcome> {
    monotonic_clock::subscribe_duration(3_600_000_000_000).block();
    Ok("null".to_owned())
}

fn return_100mb() -> Result<String, Outcome> {
    let mut json = String::with_capacity(100_000_002);
    json.push('"');
    json.extend(std::iter::repeat_n('a', 100_000_000));
    json.push('"');
    Ok(json)
}

fn million_calls() -> Result<String, Outcome> {
    let stopped = (0..1_000_000).filter(|_| context::should_stop()).count();
    Ok(stopped.to_string())
}

fn retry_forever() -> Result<String, Outcome> {
    let failure = Failure { kind: "Never".to_owned(), message: "not this time either".to_owned(), details: None };
    Err(Outcome::Error(Retryable { failure, retry_after_ms: None }))
}

fn deep_json() -> Result<String, Outcome> {
    const DEPTH: usize = 100_000;
    Ok(["[".repeat(DEPTH), "]".repeat(DEPTH)].concat())
}

const SELF: &str = r#"{"task":"replace_forever"}"#;
const BOMB: &str = r#"{"task":"fork_bomb"}"#;

/// Says how the host took it.
fn submitted(canvas: &str) -> Result<String, Outcome> {
    canvas::submit(canvas).map(|id| format!("\"{id}\"")).map_err(Outcome::Fatal)
}

fn replaced(canvas: &str) -> Result<String, Outcome> {
    canvas::replace(canvas).map(|()| "null".to_owned()).map_err(Outcome::Fatal)
}

fn flood_submit() -> Result<String, Outcome> {
    loop {
        let _ = black_box(canvas::submit(BOMB));
    }
}

fn flood_members() -> Result<String, Outcome> {
    loop {
        let _ = black_box(canvas::add_to_group(r#"[{"task":"flood_members"},{"task":"flood_members"}]"#));
    }
}

fn replace_twice() -> Result<String, Outcome> {
    let _ = canvas::replace(r#"{"task":"sleep"}"#);
    replaced(SELF)
}

fn replace_and_fail() -> Result<String, Outcome> {
    replaced(SELF)?;
    Err(Outcome::Fatal(Failure { kind: "Failed".to_owned(), message: "all the same".to_owned(), details: None }))
}

fn fork_bomb() -> Result<String, Outcome> {
    submitted(BOMB)?;
    submitted(BOMB)
}

fn many(task: &str, members: usize) -> String {
    let one = format!("{{\"task\":\"{task}\"}}");
    format!("{{\"group\":[{}]}}", vec![one; members].join(","))
}

fn fan_out(members: usize) -> String {
    many("x", members)
}

fn fan_out_text(bytes: usize) -> String {
    format!("{{\"task\":\"x\",\"args\":[\"{}\"]}}", "x".repeat(bytes))
}

fn deep_canvas() -> String {
    const DEPTH: usize = 80_000;
    [r#"{"chain":["#.repeat(DEPTH), BOMB.to_owned(), "]}".repeat(DEPTH)].concat()
}

struct Hostile;

impl Guest for Hostile {
    fn describe() -> Vec<TaskDescription> {
        let unused =
            || Parameter { name: "unused".to_owned(), schema: "true".to_owned(), default: Some("null".to_owned()) };
        let describe = |(name, about, policy, _): &(&str, &str, &str, Run)| TaskDescription {
            name: (*name).to_owned(),
            description: (*about).to_owned(),
            parameters: vec![unused()],
            returns: (*name == "lie").then(|| r#"{"type":"integer"}"#.to_owned()),
            policy: (*policy).to_owned(),
        };
        TASKS.iter().map(describe).collect()
    }

    fn run(task: String, _: String) -> Result<String, Outcome> {
        #[cfg(target_arch = "wasm32")]
        umbel::raw::install_reports();
        match TASKS.iter().find(|(name, ..)| *name == task) {
            Some((.., run)) => run(),
            None => {
                let message = "there is no such task".to_owned();
                Err(Outcome::Fatal(Failure { kind: "unknown_task".to_owned(), message, details: None }))
            }
        }
    }
}

#[cfg(target_arch = "wasm32")]
umbel::raw::export!(Hostile with_types_in umbel::raw);
#[cfg(not(target_arch = "wasm32"))]
const _: fn(String, String) -> Result<String, Outcome> = Hostile::run;
