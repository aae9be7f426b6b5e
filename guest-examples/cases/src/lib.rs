//! Tasks that the canvas cases of `tests/canvas` call: each does what its arguments say, so that a case is data alone.
//!
//! A canvas among the arguments may hold `"$input"`, in whose place the task's input is put. What hostile guests do is
//! here too: floods, endless replacement, fan-out without measure.

use std::time::Duration;

use serde_json::{Value, json};
use umbel::prelude::*;

/// Returns its argument.
#[task]
pub fn echo(value: Value) -> Value {
    value
}

/// Adds numbers, joins texts and lists.
#[task]
pub fn plus(x: Value, y: Value, #[default(Value::Null)] z: Value) -> TaskResult<Value> {
    let sum = plus_two(x, y)?;
    if z.is_null() { Ok(sum) } else { plus_two(sum, z) }
}

fn plus_two(x: Value, y: Value) -> TaskResult<Value> {
    match (x, y) {
        (Value::String(x), Value::String(y)) => Ok(Value::String(x + &y)),
        (Value::Array(mut x), Value::Array(mut y)) => {
            x.append(&mut y);
            Ok(Value::Array(x))
        }
        (x, y) => match (x.as_i64(), y.as_i64()) {
            (Some(x), Some(y)) => Ok(json!(x.saturating_add(y))),
            _ => Err(Fatal::new(format!("{x} and {y} cannot be added")).kind("TypeError").into()),
        },
    }
}

/// The sum of numbers in lists in lists.
#[task]
pub fn deep_sum(items: Value) -> i64 {
    match items {
        Value::Array(items) => items.into_iter().map(deep_sum).sum(),
        other => other.as_i64().unwrap_or_default(),
    }
}

/// Replaces itself by a group that adds a value to each item.
#[task]
pub fn to_all(items: Vec<Value>, value: Value) -> TaskResult<Value> {
    let add = |item: Value| json!({"task": "plus", "args": [item, value]});
    replace(&json!({"group": items.into_iter().map(add).collect::<Vec<_>>()}))
}

/// Fails for good.
#[task]
pub fn boom(#[default(Value::Null)] input: Value, #[default("as expected")] message: String) -> TaskResult<Value> {
    let _ = input;
    Err(Fatal::new(message).kind("Expected").into())
}

/// Fails in its first attempts. Returns how many there were.
#[task(max_retries = 5, retry_backoff = "10ms..20ms")]
pub fn unsteady(ctx: &Context, #[default(Value::Null)] input: Value, #[default(1)] failures: u32) -> TaskResult<u32> {
    let _ = input;
    if ctx.attempt() <= failures {
        return Err(Retry::new("not this time").kind("Unsteady").into());
    }
    Ok(failures)
}

/// Fails for its second item in its first attempt, for `map`.
#[task(max_retries = 5, retry_backoff = "10ms..20ms")]
pub fn unsteady_item(ctx: &Context, item: i64) -> TaskResult<i64> {
    if item == 2 && ctx.attempt() == 1 { Err(Retry::new("not this time").kind("Unsteady").into()) } else { Ok(item) }
}

/// Sleeps for a moment for each item, for `map` and `starmap`.
#[task(time_limit = "10m")]
pub fn slow_item(ctx: &Context, seconds: f64) -> f64 {
    ctx.sleep(Duration::from_secs_f64(seconds.clamp(0.0, 600.0)));
    seconds
}

/// Returns a value after a while.
#[task(time_limit = "10m")]
pub fn later(ctx: &Context, seconds: f64, #[default(Value::Null)] value: Value) -> Value {
    ctx.sleep(Duration::from_secs_f64(seconds.clamp(0.0, 600.0)));
    value
}

/// Replaces itself. What it asked for is held back for so many seconds, in which its worker may be lost.
#[task(max_retries = 3, retry_backoff = "10ms..20ms")]
pub fn become_step(
    ctx: &Context,
    #[default(Value::Null)] input: Value,
    canvas: Value,
    #[default(0.0)] seconds: f64,
    #[default(0)] failures: u32,
) -> TaskResult<Value> {
    let asked = replace(&filled(canvas, &input));
    after_asking(ctx, seconds, failures)?;
    asked
}

fn after_asking(ctx: &Context, seconds: f64, failures: u32) -> TaskResult<()> {
    ctx.sleep(Duration::from_secs_f64(seconds.clamp(0.0, 60.0)));
    if ctx.attempt() <= failures {
        return Err(Retry::new("after it had asked").kind("Unsteady").into());
    }
    Ok(())
}

/// Fails after it asked for a replacement, members and a workflow: nothing of it may come true.
#[task]
pub fn ask_and_fail(canvas: Value) -> TaskResult<Value> {
    let text = canvas.to_string();
    submit(&text)?;
    // Outside of a group this is refused, which does not matter here.
    let _ = add_members(&format!("[{text}]"));
    Err(Fatal::new("after it had asked").kind("Expected").into())
}

/// Adds members to its group. An attempt that it is told to fail adds none.
#[task(max_retries = 3, retry_backoff = "10ms..20ms")]
pub fn grow(
    ctx: &Context,
    #[default(Value::Null)] input: Value,
    members: Value,
    #[default(Value::Null)] result: Value,
    #[default(0.0)] seconds: f64,
    #[default(0)] failures: u32,
) -> TaskResult<Value> {
    add_members(&filled(members, &input).to_string())?;
    after_asking(ctx, seconds, failures)?;
    Ok(result)
}

/// Submits a workflow of its own. Returns its id.
#[task(max_retries = 3, retry_backoff = "10ms..20ms")]
pub fn start_other(
    ctx: &Context,
    #[default(Value::Null)] input: Value,
    canvas: Value,
    #[default(0.0)] seconds: f64,
    #[default(0)] failures: u32,
) -> TaskResult<String> {
    let id = submit(&filled(canvas, &input).to_string())?;
    after_asking(ctx, seconds, failures)?;
    Ok(id)
}

/// Where it is in its workflow.
#[task]
pub fn whereabouts(ctx: &Context, #[default(Value::Null)] input: Value) -> Value {
    let _ = input;
    match ctx.place() {
        Some(place) => json!({"workflow": place.workflow_id, "node": place.node, "in_group": place.in_group}),
        None => Value::Null,
    }
}

/// Submits workflows until the host refuses. Returns how many it took, and why it stopped.
#[task(time_limit = "20s")]
pub fn flood(#[default(Value::Null)] input: Value, most: u32) -> Value {
    let _ = input;
    let mut taken = 0;
    while taken < most {
        match submit(r#"{"task":"echo","args":[1]}"#) {
            Ok(_) => taken += 1,
            Err(error) => return json!({"taken": taken, "refused": error.kind()}),
        }
    }
    json!({"taken": taken, "refused": null})
}

/// Replaces itself by itself, for ever.
#[task]
pub fn forever() -> TaskResult<Value> {
    replace(&json!({"task": "forever"}))
}

/// Replaces itself by so many.
#[task]
pub fn burst(members: u32) -> TaskResult<Value> {
    replace(&json!({"group": vec![json!({"task": "echo", "args": [1]}); members as usize]}))
}

/// Replaces itself by two of itself, to a depth that nobody reaches.
#[task]
pub fn breed() -> TaskResult<Value> {
    replace(&json!({"group": [{"task": "breed"}, {"task": "breed"}]}))
}

/// `canvas` with the input in the place of each `"$input"`.
fn filled(canvas: Value, input: &Value) -> Value {
    match canvas {
        Value::String(text) if text == "$input" => input.clone(),
        Value::Array(items) => items.into_iter().map(|item| filled(item, input)).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, filled(value, input))).collect(),
        other => other,
    }
}

#[cfg(target_arch = "wasm32")]
mod asked {
    use umbel::raw::{Failure, umbel::task::canvas};

    pub fn refused(refusal: Failure) -> umbel::TaskError {
        umbel::Fatal::new(refusal.message).kind(refusal.kind).into()
    }

    pub use canvas::{add_to_group, replace, submit};
}

#[cfg(not(target_arch = "wasm32"))]
mod asked {
    //! Natively there is no host to ask.

    pub fn refused(refusal: &'static str) -> umbel::TaskError {
        umbel::Fatal::new(refusal).kind("NoHost").into()
    }

    pub fn replace(_: &str) -> Result<(), &'static str> {
        Err("there is no host")
    }

    pub fn add_to_group(_: &str) -> Result<(), &'static str> {
        Err("there is no host")
    }

    pub fn submit(_: &str) -> Result<String, &'static str> {
        Err("there is no host")
    }
}

fn replace<T>(canvas: &Value) -> TaskResult<T> {
    asked::replace(&canvas.to_string()).map_err(asked::refused)?;
    Err(Ignore.into())
}

fn add_members(members: &str) -> TaskResult<()> {
    asked::add_to_group(members).map_err(asked::refused)
}

fn submit(canvas: &str) -> TaskResult<String> {
    asked::submit(canvas).map_err(asked::refused)
}

umbel::module![
    echo,
    plus,
    deep_sum,
    to_all,
    boom,
    unsteady,
    unsteady_item,
    slow_item,
    later,
    become_step,
    ask_and_fail,
    grow,
    start_other,
    whereabouts,
    flood,
    forever,
    burst,
    breed,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_texts_and_lists_are_added() {
        assert_eq!(plus(json!(1), json!(2), json!(3)).unwrap(), 6);
        assert_eq!(plus(json!("a"), json!("b"), Value::Null).unwrap(), "ab");
        assert_eq!(plus(json!([1]), json!(["a"]), Value::Null).unwrap(), json!([1, "a"]));
        assert!(plus(json!([1]), json!(1), Value::Null).unwrap_err().is_fatal());
        assert_eq!(deep_sum(json!([1, [2, [3]]])), 6);
    }

    #[test]
    fn an_input_is_put_where_the_canvas_names_it() {
        let canvas = json!({"task": "echo", "args": ["$input", ["$input"]]});
        assert_eq!(filled(canvas, &json!(7)), json!({"task": "echo", "args": [7, [7]]}));
    }
}
