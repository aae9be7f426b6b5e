//! The first task of README.md, word for word.

use umbel::prelude::*;

/// Greets somebody, politely.
#[task(max_retries = 5, retry_backoff = "1s..1m", time_limit = "10s")]
fn greet(ctx: &Context, name: String, #[default(1)] times: u32) -> TaskResult<String> {
    if name.is_empty() {
        return Err(Fatal::new("there is nobody to greet").into()); // never retried
    }
    ctx.progress(0, times.into(), "greeting");
    Ok(vec![format!("Hello, {name}!"); times as usize].join(" "))
}

umbel::module![greet];

#[test]
fn a_task_is_a_function() {
    assert_eq!(greet(&Context::fake(), "Ada".into(), 1).unwrap(), "Hello, Ada!");
}
