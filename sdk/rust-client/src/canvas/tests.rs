//! The JSON that the builders write.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;

fn form(step: impl Into<Step>) -> Value {
    serde_json::to_value(step.into().build().unwrap()).unwrap()
}

#[test]
fn builders_write_the_documented_form() {
    assert_eq!(form(task("add").args((1, "x"))), json!({"task": "add", "args": [1, "x"]}));
    assert_eq!(form(task("a").args(()).args([1]).args((2,)).args_first((0,))), json!({"task": "a", "args": [0, 1, 2]}));
    let partial = task("a").kwarg("n", [1]).immutable().queue("slow").countdown(Duration::from_secs(1));
    let expected = json!({"task": "a", "kwargs": {"n": [1]}, "options": {"queue": "slow", "countdown_ms": 1000},
        "immutable": true});
    assert_eq!(form(partial), expected);
    assert_eq!(form(task("a").map([1, 2])), json!({"task": "a", "map": [1, 2]}));
    assert_eq!(form(task("a").starmap([(1, 2)])), json!({"task": "a", "starmap": [[1, 2]]}));
    let chunks = task("a").chunks([(1, 2), (3, 4)], 10);
    assert_eq!(form(chunks), json!({"task": "a", "chunks": [[1, 2], [3, 4]], "size": 10}));
    let chord = chord([task("a"), task("b")], task("c")).cancel_rest().on_failure(OnFailure::Continue);
    let expected = json!({"chord": [{"task": "a"}, {"task": "b"}], "body": {"task": "c"}, "cancel_rest": true,
        "on_failure": "continue"});
    assert_eq!(form(chord), expected);
    let linked = task("a").link(task("b")).link_error(chain![task("c"), group![task("d")]]).label("first");
    let expected = json!({"task": "a", "link": [{"task": "b"}],
        "link_error": [{"chain": [{"task": "c"}, {"group": [{"task": "d"}]}]}], "label": "first"});
    assert_eq!(form(linked), expected);
    assert_eq!(form(chain(Vec::<Step>::new())), json!({"chain": []}));
}

#[test]
fn then_makes_one_chain_and_keeps_what_a_chain_has_of_its_own() {
    let (a, b, c) = (json!({"task": "a"}), json!({"task": "b"}), json!({"task": "c"}));
    assert_eq!(form(task("a").then(task("b")).then(task("c"))), json!({"chain": [a, b, c]}));
    let own = task("a").then(task("b")).label("x").then(task("c"));
    assert_eq!(form(own), json!({"chain": [{"chain": [a, b], "label": "x"}, c]}));
    let group = group([task("a"), task("b")]).then(task("c"));
    assert_eq!(form(group), json!({"chain": [{"group": [a, b]}, c]}));
}

#[test]
fn the_first_error_is_kept_and_says_where() {
    let wrong = |step: Step| step.build().unwrap_err().to_string();
    assert!(wrong(chain([task("a").args(5).args("x")])).contains("arguments of a: write a tuple"));
    assert!(wrong(task("a b").then(task("b"))).contains("\"a b\""));
    assert!(wrong(task("a").link(task(""))).contains("is not valid"));
    assert!(wrong(Step::from(task("a")).cancel_rest()).contains("group or a chord"));
    assert!(wrong(task("a").chunks([(1,)], 0).into()).contains("size is 0"));
    let keys: std::collections::HashMap<(u8, u8), u8> = [((1, 2), 3)].into();
    assert!(wrong(task("a").kwarg("k", keys).into()).contains("argument k of a"));
}

#[test]
fn only_a_plain_call_is_one_job() {
    let plain = single(task("a").args((1,)).priority(3).idempotency_key("k")).unwrap();
    let body = json!({"task": "a", "args": [1], "kwargs": {}, "options": {"priority": 3}});
    assert_eq!(serde_json::to_value(&plain.call).unwrap(), body);
    assert_eq!(plain.key.as_deref(), Some("k"));
    assert!(single(task("a").map([1])).is_err() && single(task("a").immutable()).is_err());
}
