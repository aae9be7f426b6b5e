//! Tasks that show the knobs of a job's life, each doing what its arguments say: the black-box tests call them, and
//! `tests/policies.rs` shows how a policy is tested in milliseconds.

use std::time::Duration;

use umbel::prelude::*;

/// Most that `big` makes and `hold` holds, bytes.
const MAX_BIG_BYTES: u32 = 32 << 20;

/// Fails in its first attempts. Returns the number of the attempt that did not.
#[task(max_retries = 10, retry_backoff = "50ms..1s")]
pub fn flaky(ctx: &Context, times: u32) -> TaskResult<u32> {
    if ctx.attempt() <= times {
        return Err(Retry::new(format!("attempt {} of {times} that fail", ctx.attempt())).kind("Flaky").into());
    }
    Ok(ctx.attempt())
}

/// Waits. Ends sooner when it is asked to stop, and returns how long it was, in milliseconds.
#[task(time_limit = "10m")]
pub fn sleep_ms(ctx: &Context, ms: u64) -> u64 {
    let start = ctx.unix_time();
    let passed = || ctx.unix_time().saturating_sub(start).as_millis() as u64;
    while passed() < ms && !ctx.should_stop() {
        ctx.sleep(Duration::from_millis((ms - passed()).min(100)));
    }
    passed()
}

/// One at a time and five a second for each key; how many keys there are does not matter.
#[task(limit_key = "kwargs.key", key_rate_limit = "5/s", key_concurrency = 1)]
pub fn touch(ctx: &Context, key: String, #[default(0)] ms: u64) -> String {
    ctx.sleep(Duration::from_millis(ms));
    key
}

/// Ten a second on all workers together, two of them at once.
#[task(rate_limit = "10/s", rate_burst = 2)]
pub fn limited(#[default(0)] number: u64) -> u64 {
    number
}

/// Never two at the same time, on any number of workers.
#[task(concurrency = 1)]
pub fn lonely(ctx: &Context, #[default(100)] ms: u64) -> u64 {
    ctx.sleep(Duration::from_millis(ms));
    ms
}

/// While one for an order is not finished, another one for it is the same job.
#[task(unique = "first", unique_by = ["kwargs.order_id"])]
pub fn once(ctx: &Context, order_id: u32, #[default(0)] ms: u64) -> u32 {
    ctx.sleep(Duration::from_millis(ms));
    order_id
}

/// Of a burst of edits of one document only the last is indexed, half a second after it, and no later than two seconds
/// after the first.
#[task(unique = "latest", unique_by = ["kwargs.document"], debounce = "500ms", debounce_max_wait = "2s")]
pub fn latest(document: String, version: u32) -> String {
    format!("{document} {version}")
}

/// Needs about `units` of fuel. What it lacks in its first attempts it gets later.
#[task(fuel = "2M", retry_on = ["out_of_fuel"], retry_fuel_factor = 4, max_retries = 5, retry_backoff = "10ms..50ms")]
pub fn hungry(ctx: &Context, units: u64) -> u32 {
    let mut value = 1_u64;
    // Each turn is a few instructions, and none can be left out.
    for turn in 0..units / 8 {
        value = std::hint::black_box(value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(turn));
    }
    ctx.attempt()
}

/// A text of so many bytes.
#[task(memory = "256MiB", time_limit = "1m")]
pub fn big(bytes: u32) -> TaskResult<String> {
    if bytes > MAX_BIG_BYTES {
        return Err(Fatal::new(format!("at most {MAX_BIG_BYTES} bytes")).kind("TooBig").into());
    }
    Ok("x".repeat(bytes as usize))
}

/// The length of a text, in bytes.
#[task(memory = "256MiB", time_limit = "1m")]
pub fn take(text: String) -> usize {
    text.len()
}

/// Holds so many bytes for so long.
#[task(memory = "256MiB", time_limit = "1m")]
pub fn hold(ctx: &Context, bytes: u32, ms: u64) -> TaskResult<u32> {
    if bytes > MAX_BIG_BYTES {
        return Err(Fatal::new(format!("at most {MAX_BIG_BYTES} bytes")).kind("TooBig").into());
    }
    // Written to, so that the pages are really there.
    let held = std::hint::black_box(vec![1_u8; bytes as usize]);
    ctx.sleep(Duration::from_millis(ms));
    Ok(std::hint::black_box(held).len() as u32)
}

#[derive(Serialize)]
struct Card {
    card: &'static str,
    step: u32,
}

/// Says what it is doing in words of its own, for so long each.
#[task(time_limit = "2m")]
pub fn stateful(ctx: &Context, #[default(100)] ms: u64) -> &'static str {
    for (step, name) in (1..).zip(["reserving", "charging", "thanking"]) {
        ctx.set_state(name, Card { card: "visa", step });
        ctx.progress(step.into(), 3, name);
        ctx.sleep(Duration::from_millis(ms));
    }
    "paid"
}

/// Writes so many log lines, with a pause after each.
#[task(time_limit = "2m")]
pub fn chatty(ctx: &Context, lines: u32, ms: u64) -> u32 {
    for line in 0..lines {
        log::info!("line {line}");
        ctx.sleep(Duration::from_millis(ms));
    }
    lines
}

umbel::module![flaky, sleep_ms, touch, limited, lonely, once, latest, hungry, big, take, hold, stateful, chatty];
