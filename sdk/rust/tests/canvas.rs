//! Canvases of guests in their JSON form, which the host's own reader checks, and the requests of tasks.

#![allow(clippy::unwrap_used)]

use std::{collections::HashMap, time::Duration};

use serde_json::{Value, json};
use umbel::{
    canvas::{Json, Options},
    prelude::*,
};

#[task]
fn add(x: i64, y: i64) -> i64 {
    x + y
}

#[task(name = "math.total")]
fn total(numbers: Vec<i64>) -> i64 {
    numbers.iter().sum()
}

#[task]
fn greet(ctx: &Context, name: String, #[default("hello")] greeting: String, times: Option<u8>) -> String {
    let _ = (ctx, times);
    format!("{greeting}, {name}")
}

#[task]
fn noop() {}

mod elsewhere {
    use umbel::prelude::*;

    #[task]
    pub fn shout(r#type: String, volume: u64, _rest: Vec<String>) -> String {
        format!("{type}{volume}", r#type = r#type)
    }

    /// Deserialized only: it cannot be an argument in a canvas, and is still a task.
    #[derive(Deserialize, JsonSchema)]
    pub struct OneWay {
        pub n: u8,
    }

    #[task]
    pub fn one_way(value: OneWay) -> u8 {
        value.n
    }

    #[task]
    #[allow(clippy::too_many_arguments)]
    pub fn many(a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8, h: u8) -> u8 {
        a + b + c + d + e + f + g + h
    }
}

umbel::module![add, total, greet, noop, elsewhere::shout, elsewhere::one_way, elsewhere::many];

/// The form, which the host's own types must read.
fn form(canvas: impl Into<Canvas>) -> Value {
    let text = canvas.into().json().unwrap();
    let read: umbel_model::Canvas = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let _ = read;
    serde_json::from_str(&text).unwrap()
}

#[test]
fn signatures_are_complete_partial_or_immutable() {
    assert_eq!(form(add::s(2, 3)), json!({"task": "add", "args": [2, 3]}));
    assert_eq!(form(add::p(4)), json!({"task": "add", "args": [4]}));
    assert_eq!(form(add::si(2, 3)), json!({"task": "add", "args": [2, 3], "immutable": true}));
    assert_eq!(form(total::p()), json!({"task": "math.total"}));
    assert_eq!(form(total::s(vec![1, 2])), json!({"task": "math.total", "args": [[1, 2]]}));
    assert_eq!(form(noop::s()), json!({"task": "noop"}));
    assert_eq!(form(elsewhere::shout::s("a", 7, vec![])), json!({"task": "shout", "args": ["a", 7, []]}));
    assert_eq!(form(greet::s("Ann", "hi", 2)), json!({"task": "greet", "args": ["Ann", "hi", 2]}));
    assert_eq!(form(greet::s("Ann".to_owned(), "hi", None)), json!({"task": "greet", "args": ["Ann", "hi", null]}));
    let any = elsewhere::one_way::s(Json::of(&HashMap::from([("n", 7)])));
    assert_eq!(form(any), json!({"task": "one_way", "args": [{"n": 7}]}));
    assert_eq!(form(elsewhere::many::p(2, 3, 4, 5, 6, 7, 8))["args"].as_array().unwrap().len(), 7);
}

#[test]
fn steps_in_macros_leave_arguments_out() {
    let expected = json!({"chain": [{"task": "add", "args": [2, 2]}, {"task": "add", "args": [4]}]});
    assert_eq!(form(chain![add::s(2, 2), add::s(4)]), expected);
    assert_eq!(form(umbel::canvas::chain([add::s(2, 2), add::p(4)])), expected);
    assert_eq!(form(chain![add::s(2, 2)].then(add::p(4))), expected);
    let one = 1;
    let nested = chain![
        elsewhere::shout::s("x", one as u64, vec![]),
        canvas!(greet::s()),
        greet::s("with a greeting").kwarg("times", 2),
        if one == 1 { add::s(1) } else { add::s(2) },
        umbel::canvas::partial::<add, _>((5,)),
    ];
    assert_eq!(
        form(nested)["chain"],
        json!([
            {"task": "shout", "args": ["x", 1, []]},
            {"task": "greet"},
            {"task": "greet", "args": ["with a greeting"], "kwargs": {"times": 2}},
            {"task": "add", "args": [1]},
            {"task": "add", "args": [5]},
        ])
    );
}

#[test]
fn groups_and_chords_nest() {
    let members = json!([{"task": "add", "args": [0, 0]}, {"task": "add", "args": [1, 1]}]);
    let pair = || group((0..2).map(|n| add::s(n, n)));
    assert_eq!(form(pair()), json!({"group": members}));
    assert_eq!(form(group![add::s(0, 0), add::s(1, 1)]), json!({"group": members}));
    assert_eq!(
        form(group![add::s(0, 0)].and(add::s(1, 1)).cancel_rest()),
        json!({"group": members, "cancel_rest": true})
    );
    assert_eq!(form(group![]), json!({"group": []}));
    let chord_form = json!({"chord": members, "body": {"task": "math.total"}});
    assert_eq!(form(chord![pair(), total::s()]), chord_form);
    assert_eq!(form(chord(pair(), total::p())), chord_form);
    assert_eq!(form(pair().chord(total::p())), chord_form);
    let deep = chain![chord![group![chain![add::s(1, 1), add::s(2)], pair()], noop::s()], add::si(1, 1)];
    assert_eq!(
        form(deep)["chain"][0]["chord"],
        json!([{"chain": [{"task": "add", "args": [1, 1]}, {"task": "add", "args": [2]}]}, {"group": members}])
    );
}

#[test]
fn callbacks_policies_and_labels_belong_to_any_step() {
    let step = add::s(1, 2)
        .link(add::p(3))
        .link(noop::s())
        .link_error(greet::s("operator", "help", None))
        .on_failure(OnFailure::Continue)
        .label("first");
    assert_eq!(
        form(step),
        json!({
            "task": "add", "args": [1, 2],
            "link": [{"task": "add", "args": [3]}, {"task": "noop"}],
            "link_error": [{"task": "greet", "args": ["operator", "help", null]}],
            "on_failure": "continue", "label": "first",
        })
    );
    let inside = canvas!(add::s(1, 2).link(add::s(3).link_error(noop::s())));
    assert_eq!(form(inside)["link"][0], json!({"task": "add", "args": [3], "link_error": [{"task": "noop"}]}));
    let chain = chain![noop::s()].link_error(noop::s()).label("all");
    assert_eq!(form(chain), json!({"chain": [{"task": "noop"}], "link_error": [{"task": "noop"}], "label": "all"}));
}

#[test]
fn a_chord_keeps_what_its_group_said() {
    let noop_form = json!({"task": "noop"});
    let header = group![noop::s()].on_failure(OnFailure::Ignore).label("parts").cancel_rest();
    assert_eq!(
        form(chord![header, noop::s()].link(noop::s())),
        json!({
            "chord": [noop_form], "body": noop_form, "cancel_rest": true,
            "link": [noop_form], "on_failure": "ignore", "label": "parts",
        })
    );
    let header = group![noop::s()].link_error(noop::s());
    assert_eq!(
        form(chord![header, noop::s()].on_failure(OnFailure::Continue).link(noop::s())),
        json!({
            "chain": [{"group": [noop_form], "link_error": [noop_form], "on_failure": "continue"}, noop_form],
            "link": [noop_form],
        })
    );
}

#[test]
fn one_task_is_called_for_many_items() {
    assert_eq!(form(total::map([vec![1], vec![2, 3]])), json!({"task": "math.total", "map": [[1], [2, 3]]}));
    assert_eq!(form(add::starmap([(1, 2), (3, 4)])), json!({"task": "add", "starmap": [[1, 2], [3, 4]]}));
    assert_eq!(
        form(add::chunks((0..3).map(|n| (n, n)), 2)),
        json!({"task": "add", "chunks": [[0, 0], [1, 1], [2, 2]], "size": 2})
    );
    let on = |queue: &str| Options::new().queue(queue);
    let each = Signature::of::<add>().args((5,)).map([1, 2]).set(on("slow")).on_failure(OnFailure::Ignore);
    assert_eq!(
        form(each),
        json!({"task": "add", "args": [5], "map": [1, 2], "options": {"queue": "slow"}, "on_failure": "ignore"})
    );
    assert_eq!(form(Signature::new("x").starmap([(1, "a")])), json!({"task": "x", "starmap": [[1, "a"]]}));
    assert_eq!(form(Signature::new("x").chunks([(1,)], 1)), json!({"task": "x", "chunks": [[1]], "size": 1}));
}

#[test]
fn arguments_and_options_merge_as_celery_merges_them() {
    let partial = Signature::new("shop.pay").args((2,)).kwarg("currency", "EUR").kwarg("note", "first");
    let merged = partial.partial((1, "a")).kwarg("note", "second");
    let first = Options::new().queue("slow").priority(9).countdown(Duration::from_millis(1_500));
    let options = Options::new().queue("fast").max_retries(2).with("max_deliveries", 3);
    assert_eq!(
        form(merged.set(first).set(options)),
        json!({
            "task": "shop.pay", "args": [1, "a", 2], "kwargs": {"currency": "EUR", "note": "second"},
            "options": {"queue": "fast", "priority": 9, "countdown_ms": 1_500, "max_retries": 2, "max_deliveries": 3},
        })
    );
    let fixed = add::si(1, 2).partial((7,)).kwarg("x", 1).set(Options::new().fuel(5));
    assert_eq!(form(fixed), json!({"task": "add", "args": [1, 2], "options": {"fuel": 5}, "immutable": true}));
}

#[test]
fn options_have_the_names_that_submissions_have() {
    let second = Duration::from_secs(1);
    let options = Options::new().queue("q").priority(1).max_retries(1).expires(second).time_limit(second * 2);
    let options = options.soft_time_limit(second).fuel(1_000_000).memory_bytes(1 << 20);
    let policy = form(noop::s().set(options))["options"].clone();
    serde_json::from_value::<umbel_model::PolicyPatch>(policy).unwrap();
}

#[test]
fn large_numbers_and_texts_stay_whole() {
    let text = "quote \" and \u{1} and 🙂";
    let step = Signature::new("x").args((u64::MAX, i128::MAX, text)).kwarg("a\"b", f64::MAX);
    let json = Canvas::from(step).json().unwrap();
    assert!(json.contains(&u64::MAX.to_string()) && json.contains(&i128::MAX.to_string()), "{json}");
    let read: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&read["args"][2], &read["kwargs"]["a\"b"]), (&json!(text), &json!(f64::MAX)));
}

#[test]
fn what_is_not_json_refuses_the_canvas_and_not_the_builder() {
    let bad = Json::of(&HashMap::from([(vec![1], 1)]));
    let canvas: Canvas = chain![noop::s(), noop::s().link(elsewhere::one_way::s(bad))].into();
    let refused = canvas.json().unwrap_err();
    assert_eq!(refused.kind, "invalid_canvas");
    let error = TaskError::from(Context::fake().submit(canvas).unwrap_err());
    assert!(error.is_fatal());
    assert_eq!(error.kind(), Some("invalid_canvas"));
}

fn countdown(ctx: &Context, n: u32) -> TaskResult<&'static str> {
    match n {
        0 => Ok("over"),
        n => ctx.replace(chain![noop::s(), Signature::new("countdown").immutable().args((n - 1,)).immutable()]),
    }
}

#[test]
fn a_replacement_ends_the_task_and_is_recorded() {
    let ctx = Context::fake();
    assert_eq!(countdown(&ctx, 0).unwrap(), "over");
    assert_eq!(ctx.replacement(), None);
    let end = countdown(&ctx, 2).unwrap_err();
    assert_eq!(end.into_outcome(), umbel::raw::Outcome::Ignore);
    assert_eq!(ctx.replacement().unwrap()["chain"][1], json!({"task": "countdown", "args": [1], "immutable": true}));
    assert_eq!(countdown(&ctx, 2).unwrap_err().kind(), Some("already_replaced"));
}

#[test]
fn submissions_and_members_are_recorded() {
    let ctx = Context::fake();
    assert_eq!(ctx.submit(noop::s()).unwrap(), "workflow-1");
    assert_eq!(ctx.submit(add::s(1, 2)).unwrap(), "workflow-2");
    let given = json!({"group": [{"task": "noop"}]});
    ctx.submit(chain![Json::of(&given), noop::s()]).unwrap();
    assert_eq!(ctx.submitted()[2], json!({"chain": [given, {"task": "noop"}]}));
    assert_eq!(ctx.submitted()[..2], [json!({"task": "noop"}), json!({"task": "add", "args": [1, 2]})]);
    assert_eq!(ctx.place(), None);
    assert_eq!(ctx.add_to_group([noop::s()]).unwrap_err().kind, "not_in_group");
    let ctx = ctx.with_place("w", 3, true);
    ctx.add_to_group([noop::s()]).unwrap();
    ctx.add_to_group(group![chain![noop::s()], noop::s()]).unwrap();
    assert_eq!(ctx.added_to_group().len(), 3);
    let place = ctx.place().unwrap();
    assert_eq!((place.workflow_id.as_str(), place.node, place.in_group), ("w", 3, true));
}

#[test]
fn a_refusal_of_the_host_is_a_final_failure_of_its_kind() {
    fn submits(ctx: &Context) -> TaskResult<String> {
        Ok(ctx.submit(noop::s())?)
    }
    let ctx = Context::fake().with_refusal("host_limit:canvas_calls", "enough");
    let error = submits(&ctx).unwrap_err();
    assert!(error.is_fatal());
    assert_eq!((error.kind(), error.message()), (Some("host_limit:canvas_calls"), "enough"));
    assert!(ctx.submitted().is_empty());
    let busy = Context::fake().with_refusal("host_limit:canvas_rate", "later");
    assert!(submits(&busy).unwrap_err().is_retryable(), "a rate is over soon");
}
