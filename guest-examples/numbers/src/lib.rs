//! Arithmetic, and the small tasks that tests and benchmarks call.

use std::time::Duration;

use umbel::{prelude::*, serde_json::Value};

/// The most primes that one job lists: its result stays small.
const MAX_PRIMES: u32 = 1_000_000;

/// Adds two numbers.
#[task]
pub fn add(x: i64, y: i64) -> TaskResult<i64> {
    x.checked_add(y).ok_or_else(|| overflow("the sum"))
}

/// Multiplies two numbers.
#[task]
pub fn mul(x: i64, y: i64) -> TaskResult<i64> {
    x.checked_mul(y).ok_or_else(|| overflow("the product"))
}

/// The sum of a list.
#[task]
pub fn total(items: Vec<i64>) -> TaskResult<i64> {
    items.into_iter().try_fold(0_i64, i64::checked_add).ok_or_else(|| overflow("the sum"))
}

/// The n-th Fibonacci number, the slow way: for measuring compute.
#[task]
pub fn fib(n: u32) -> TaskResult<u64> {
    // The 94th does not fit, and the slow way would take longer than the universe has.
    if n > 93 { Err(overflow("the number")) } else { Ok(slow_fib(n)) }
}

fn slow_fib(n: u32) -> u64 {
    if n < 2 { n.into() } else { slow_fib(n - 1) + slow_fib(n - 2) }
}

/// How many primes there are up to a limit, and the largest.
#[task(fuel = "20G", memory = "16MiB")]
pub fn primes(ctx: &Context, limit: u32) -> TaskResult<Primes> {
    if limit > MAX_PRIMES {
        return Err(Fatal::new(format!("the limit is at most {MAX_PRIMES}")).kind("TooLarge").into());
    }
    let size = limit as usize + 1;
    let mut composite = vec![false; size];
    let (mut count, mut largest) = (0, None);
    for n in 2..size {
        if n.is_multiple_of(100_000) {
            ctx.progress(n as u64, limit.into(), "sieving");
        }
        if composite[n] {
            continue;
        }
        count += 1;
        largest = Some(n as u32);
        for multiple in (n * n..size).step_by(n) {
            composite[multiple] = true;
        }
    }
    Ok(Primes { count, largest })
}

/// The result of `primes`.
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub struct Primes {
    pub count: u32,
    pub largest: Option<u32>,
}

/// Does nothing with an order: the job that benchmarks count.
#[task]
pub fn noop(order_id: u64) -> Receipt {
    Receipt { order_id, status: "success" }
}

/// The result of `noop`.
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub struct Receipt {
    pub order_id: u64,
    pub status: &'static str,
}

/// Sleeps, and says for how long.
#[task(time_limit = "10m")]
pub fn nap(ctx: &Context, seconds: f64) -> TaskResult<f64> {
    let duration = Duration::try_from_secs_f64(seconds).map_err(|e| Fatal::new(e.to_string()).kind("BadDuration"))?;
    ctx.sleep(duration);
    Ok(seconds)
}

/// Returns its argument.
#[task]
pub fn ident(n: Value) -> Value {
    n
}

/// Fails for good, whatever it is called with.
#[task]
pub fn fail(
    #[default(Value::from("this task always fails"))] message: Value,
    #[default] more: Value,
) -> TaskResult<()> {
    let text = message.as_str().map_or_else(|| message.to_string(), str::to_owned);
    Err(Fatal::new(text).kind("Failed").details([message, more]).into())
}

/// Fails its first `failures` attempts (`n` of them when left out), and then returns `n`.
#[task(max_retries = 100, retry_backoff = "10ms", retry_jitter = false)]
pub fn flaky(ctx: &Context, n: u32, failures: Option<u32>) -> TaskResult<u32> {
    let failures = failures.unwrap_or(n);
    if ctx.attempt() <= failures {
        return Err(Retry::new(format!("attempt {} of {failures} that fail", ctx.attempt())).kind("Flaky").into());
    }
    Ok(n)
}

/// Adds one.
#[task]
pub fn inc(n: i64) -> TaskResult<i64> {
    n.checked_add(1).ok_or_else(|| overflow("the number"))
}

/// Both arguments, as a list: what a callback gets, and what it was called with.
#[task]
pub fn pair(first: Value, #[default] second: Value) -> Vec<Value> {
    vec![first, second]
}

/// The sum of all integers in lists within lists; anything else is nothing.
#[task]
pub fn sum_all(items: Value) -> TaskResult<i64> {
    match items {
        Value::Array(items) => items
            .into_iter()
            .try_fold(0_i64, |sum, item| sum.checked_add(sum_all(item)?).ok_or_else(|| overflow("the sum"))),
        other => Ok(other.as_i64().unwrap_or(0)),
    }
}

/// Adds a number to all of a list.
#[task]
pub fn add_to_all(numbers: Vec<i64>, n: i64) -> TaskResult<Vec<i64>> {
    numbers.into_iter().map(|number| add(number, n)).collect()
}

/// The same numbers overflow every time, so it is never worth a retry.
fn overflow(what: &str) -> TaskError {
    Fatal::new(format!("{what} does not fit into 64 bits")).kind("Overflow").into()
}

umbel::module![add, mul, total, fib, primes, noop, nap, ident, inc, fail, flaky, pair, sum_all, add_to_all,];

#[cfg(test)]
mod tests {
    use super::*;
    use umbel::serde_json::json;

    #[test]
    fn sums_and_products_that_do_not_fit_fail_for_good() {
        assert_eq!(add(2, 3).unwrap(), 5);
        assert_eq!(mul(6, 7).unwrap(), 42);
        assert_eq!(total(vec![1, 2, 3]).unwrap(), 6);
        assert_eq!(total(vec![]).unwrap(), 0);
        for error in [add(i64::MAX, 1), mul(i64::MIN, -1), total(vec![i64::MAX, 1]), inc(i64::MAX)] {
            assert!(error.unwrap_err().is_fatal());
        }
    }

    #[test]
    fn fibonacci_and_primes_are_the_known_ones() {
        assert_eq!(fib(20).unwrap(), 6_765);
        assert!(fib(94).is_err());
        let ctx = Context::fake();
        assert_eq!(primes(&ctx, 1_000_000).unwrap(), Primes { count: 78_498, largest: Some(999_983) });
        assert_eq!(ctx.progress_reports().len(), 10);
        assert_eq!(primes(&ctx, 1).unwrap(), Primes { count: 0, largest: None });
    }

    #[test]
    fn nap_sleeps_as_long_as_it_says() {
        let ctx = Context::fake();
        assert_eq!(nap(&ctx, 1.5).unwrap(), 1.5);
        assert_eq!(ctx.slept(), Duration::from_millis(1_500));
        assert_eq!(nap(&ctx, -1.0).unwrap_err().kind(), Some("BadDuration"));
    }

    #[test]
    fn failures_are_final_and_flaky_tasks_succeed_in_the_end() {
        let error = fail(Value::from("boom"), Value::Null).unwrap_err();
        assert!(error.is_fatal());
        assert_eq!((error.kind(), error.message()), (Some("Failed"), "boom"));
        assert_eq!(fail(Value::from(7), Value::Null).unwrap_err().message(), "7");
        let attempt = |n, failures| flaky(&Context::fake().with_attempt(n), 2, failures);
        assert!(attempt(2, None).unwrap_err().is_retryable());
        assert_eq!(attempt(3, None).unwrap(), 2);
        assert_eq!(attempt(1, Some(0)).unwrap(), 2);
        assert_eq!(ident(Value::from(vec![1, 2])), Value::from(vec![1, 2]));
    }

    #[test]
    fn lists_are_flattened_paired_and_added_to() {
        assert_eq!(sum_all(json!([1, [2, [3, null]], "x", {"error": {}}])).unwrap(), 6);
        assert!(sum_all(json!([i64::MAX, 1])).unwrap_err().is_fatal());
        assert_eq!(pair(json!(1), Value::Null), [json!(1), Value::Null]);
        assert_eq!(add_to_all(vec![1, 2], 10).unwrap(), [11, 12]);
    }

    #[test]
    fn noop_answers_as_the_benchmarks_expect() {
        let result = umbel_module::run("noop", r#"{"order_id":7}"#).unwrap();
        assert_eq!(result, r#"{"order_id":7,"status":"success"}"#);
    }
}
