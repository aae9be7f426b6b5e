//! Tasks that grow their workflow: they replace themselves, add members to their group, submit others.

use umbel::{
    canvas::Json,
    prelude::*,
    serde_json::{Value, json},
};

/// The n-th number makes about three times as many jobs as it is large.
const MAX_FIB: u32 = 12;
/// Each step is a workflow in the one before.
const MAX_COUNTDOWN: u32 = 1_000;
/// Numbers that one job adds up by itself.
const MAX_SPAN: i64 = 4;
/// Workflows that one job submits.
const MAX_LAUNCH: u32 = 100;

/// Adds two numbers.
#[task(name = "growing.add")]
pub fn add(x: i64, y: i64) -> TaskResult<i64> {
    x.checked_add(y).ok_or_else(overflow)
}

/// The sum of a list.
#[task(name = "growing.total")]
pub fn total(numbers: Vec<i64>) -> TaskResult<i64> {
    numbers.into_iter().try_fold(0_i64, i64::checked_add).ok_or_else(overflow)
}

fn overflow() -> TaskError {
    Fatal::new("the sum does not fit into 64 bits").kind("Overflow").into()
}

/// Is replaced by a group that adds a number to each of a list.
#[task]
pub fn add_each(ctx: &Context, numbers: Vec<i64>, n: i64) -> TaskResult<Vec<i64>> {
    ctx.replace(group(numbers.into_iter().map(|number| add::s(number, n))))
}

/// Is replaced by itself with one less, down to 0.
#[task]
pub fn countdown(ctx: &Context, n: u32) -> TaskResult<u32> {
    match n {
        0 => Ok(0),
        1..=MAX_COUNTDOWN => ctx.replace(countdown::s(n - 1)),
        _ => Err(too_large("n", MAX_COUNTDOWN)),
    }
}

/// The n-th Fibonacci number: replaced by the sum of the two before it.
#[task]
pub fn fib_canvas(ctx: &Context, n: u32) -> TaskResult<i64> {
    match n {
        0 | 1 => Ok(n.into()),
        2..=MAX_FIB => ctx.replace(chord![group![fib_canvas::s(n - 1), fib_canvas::s(n - 2)], total::s()]),
        _ => Err(too_large("n", MAX_FIB)),
    }
}

/// Adds two numbers in another job that takes its place.
#[task]
pub fn add_replaced(ctx: &Context, x: i64, y: i64) -> TaskResult<i64> {
    ctx.replace(add::s(x, y))
}

/// Is replaced by any canvas in its JSON form. In a chain give it by name: the result of the step before is the input,
/// which is dropped.
#[task]
pub fn replace_with(ctx: &Context, #[default] input: Value, #[default] canvas: Value) -> TaskResult<Value> {
    let canvas = if canvas.is_null() { input } else { canvas };
    ctx.replace(Json::of(&canvas))
}

/// The sum of the numbers from `from` up to and without `to`. In a group it handles a few of them and adds members to the
/// group for the rest; elsewhere it is replaced by such a group and a total.
#[task]
pub fn split_sum(ctx: &Context, from: i64, to: i64) -> TaskResult<i64> {
    if !ctx.place().is_some_and(|place| place.in_group) {
        return ctx.replace(chord![group![split_sum::s(from, to)], total::s()]);
    }
    let mine = to.min(from.saturating_add(MAX_SPAN));
    let left = to.saturating_sub(mine);
    if left > 0 {
        // Two halves, so that the group grows like a tree.
        let middle = mine + left / 2;
        let halves = [(mine, middle), (middle, to)].into_iter().filter(|(from, to)| from < to);
        ctx.add_to_group(halves.map(|(from, to)| split_sum::s(from, to)))?;
    }
    total((from..mine).collect())
}

/// Adds members, a list of steps in their JSON form, to the group that it is in, and returns how many.
#[task]
pub fn add_members(ctx: &Context, members: Vec<Value>) -> TaskResult<u64> {
    ctx.add_to_group(members.iter().map(Json::of))?;
    Ok(members.len() as u64)
}

/// Submits workflows of one addition each, and returns their ids.
#[task]
pub fn launch(ctx: &Context, workflows: u32) -> TaskResult<Vec<String>> {
    if workflows > MAX_LAUNCH {
        return Err(too_large("workflows", MAX_LAUNCH));
    }
    let submit = |n: u32| ctx.submit(canvas!(add::s(i64::from(n), 1).label(format!("launched {n}"))));
    Ok((0..workflows).map(submit).collect::<Result<_, _>>()?)
}

/// Submits any canvas in its JSON form, and returns the workflow's id; then fails, if it is told to.
#[task]
pub fn submit_canvas(ctx: &Context, canvas: Value, #[default(false)] fail: bool) -> TaskResult<String> {
    let id = ctx.submit(Json::of(&canvas))?;
    if fail {
        return Err(Fatal::new("the workflow must not start").kind("Failed").details(json!({ "workflow": id })).into());
    }
    Ok(id)
}

fn too_large(what: &str, max: u32) -> TaskError {
    Fatal::new(format!("{what} is at most {max}")).kind("TooLarge").into()
}

umbel::module![
    add,
    total,
    add_each,
    countdown,
    fib_canvas,
    add_replaced,
    replace_with,
    split_sum,
    add_members,
    launch,
    submit_canvas,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_replace_themselves() {
        let ctx = Context::fake();
        assert_eq!(countdown(&ctx, 0).unwrap(), 0);
        countdown(&ctx, 3).unwrap_err();
        assert_eq!(ctx.replacement(), Some(json!({"task": "countdown", "args": [2]})));
        assert_eq!(countdown(&Context::fake(), 1_001).unwrap_err().kind(), Some("TooLarge"));

        let ctx = Context::fake();
        assert_eq!(fib_canvas(&ctx, 1).unwrap(), 1);
        fib_canvas(&ctx, 5).unwrap_err();
        let members = json!([{"task": "fib_canvas", "args": [4]}, {"task": "fib_canvas", "args": [3]}]);
        assert_eq!(ctx.replacement(), Some(json!({"chord": members, "body": {"task": "growing.total"}})));

        let ctx = Context::fake();
        add_each(&ctx, vec![1, 2], 3).unwrap_err();
        let members = json!([{"task": "growing.add", "args": [1, 3]}, {"task": "growing.add", "args": [2, 3]}]);
        assert_eq!(ctx.replacement(), Some(json!({"group": members})));

        let ctx = Context::fake();
        replace_with(&ctx, json!(1), json!({"task": "noop"})).unwrap_err();
        assert_eq!(ctx.replacement(), Some(json!({"task": "noop"})));
    }

    #[test]
    fn a_group_grows_until_every_number_is_added() {
        let ctx = Context::fake();
        split_sum(&ctx, 0, 100).unwrap_err();
        assert!(ctx.replacement().is_some());
        let (mut sum, mut waiting) = (0, vec![(0, 100)]);
        while let Some((from, to)) = waiting.pop() {
            let ctx = Context::fake().with_place("w", 1, true);
            sum += split_sum(&ctx, from, to).unwrap();
            let arg = |member: &Value, at: usize| member["args"][at].as_i64().unwrap();
            waiting.extend(ctx.added_to_group().iter().map(|member| (arg(member, 0), arg(member, 1))));
        }
        assert_eq!(sum, (0..100).sum::<i64>());
    }

    #[test]
    fn workflows_are_submitted_and_counted() {
        let ctx = Context::fake();
        assert_eq!(launch(&ctx, 3).unwrap(), ["workflow-1", "workflow-2", "workflow-3"]);
        assert_eq!(ctx.submitted()[2], json!({"task": "growing.add", "args": [2, 1], "label": "launched 2"}));
        assert!(launch(&ctx, 101).is_err());
        assert!(submit_canvas(&ctx, json!({"task": "noop"}), true).unwrap_err().is_fatal());
        assert_eq!(ctx.submitted().len(), 4);
    }

    #[test]
    fn members_are_added_only_inside_of_a_group() {
        let members = vec![json!({"task": "noop", "args": [1]})];
        assert_eq!(add_members(&Context::fake(), members.clone()).unwrap_err().kind(), Some("not_in_group"));
        let ctx = Context::fake().with_place("w", 1, true);
        assert_eq!(add_members(&ctx, members.clone()).unwrap(), 1);
        assert_eq!(ctx.added_to_group(), members);
    }
}
