//! The canvas form as the OpenAPI document describes it, written by hand because it is recursive; and the search for the
//! step of a canvas that has a wrong shape.
//!
//! `umbel_model::canvas::form` is what is read; a test compares the fields.

use serde_json::{Value, json};
use umbel_model::Canvas;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

/// Longest body in which the wrong step is looked for; of longer ones the line and column are told.
const MAX_SEARCHED_BYTES: usize = 1 << 20;

macro_rules! schemas {
    ($($(#[$doc:meta])* $name:ident = $json:expr;)*) => {$(
        $(#[$doc])*
        pub(crate) struct $name;

        impl ToSchema for $name {}

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                serde_json::from_value($json).expect("it is a JSON Schema, written here")
            }
        }
    )*};
}

schemas! {
    /// One step of a canvas.
    Step = json!({
        "description": "One step of a canvas: a task, or steps in a chain, a group or a chord, nested at most 48 deep. \
            A step that comes after another gets its result in front of its own arguments.",
        "oneOf": [
            {"$ref": "#/components/schemas/TaskStep"},
            {"$ref": "#/components/schemas/ChainStep"},
            {"$ref": "#/components/schemas/GroupStep"},
            {"$ref": "#/components/schemas/ChordStep"},
        ],
    });
    /// A call of a task.
    TaskStep = with_common(json!({
        "type": "object",
        "description": "A call of a task: complete, or partial when a result goes in front of its arguments. At most one \
            of `map`, `starmap` and `chunks`.",
        "required": ["task"],
        "properties": {
            "task": {"type": "string"},
            "args": {"type": "array", "items": anything(), "description": "By position."},
            "kwargs": {"type": "object", "additionalProperties": anything(), "description": "By name."},
            "options": {"$ref": "#/components/schemas/StepOptions"},
            "immutable": {"type": "boolean", "description": "Takes no result of what came before.", "default": false},
            "map": {
                "type": "array", "items": anything(),
                "description": "One job that calls the task once for each item, its last positional argument, and gives \
                    the list of the results. Takes no result of what came before.",
            },
            "starmap": {
                "type": "array", "items": {"type": "array", "items": anything()},
                "description": "As `map`; each item is a list of positional arguments.",
            },
            "chunks": {
                "type": "array", "items": {"type": "array", "items": anything()},
                "description": "The items in starmaps of `size`, as a group: its result is the list of their lists.",
            },
            "size": {"type": "integer", "minimum": 1, "description": "Items of a chunk. Only with `chunks`."},
        },
        "examples": [
            {"task": "add", "args": [1], "kwargs": {"y": 2}, "options": {"queue": "critical", "max_retries": 5}},
            {"task": "notify", "args": ["done"], "immutable": true, "label": "tell them"},
            {"task": "inc", "map": [1, 2, 3]},
            {"task": "add", "starmap": [[1, 2], [3, 4]]},
            {"task": "add", "chunks": [[1, 2], [3, 4], [5, 6]], "size": 2},
            {"task": "charge", "args": [7], "link": [{"task": "send_receipt"}], "link_error": [{"task": "release_stock"}]},
        ],
    }));
    /// Steps one after the other.
    ChainStep = with_common(json!({
        "type": "object",
        "description": "Steps one after the other; its result is that of the last. A group that is followed by a step is a \
            chord.",
        "required": ["chain"],
        "properties": {"chain": {"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/Step"}}},
        "examples": [{"chain": [{"task": "add", "args": [2, 2]}, {"task": "add", "args": [4]}]}],
    }));
    /// Steps all at once.
    GroupStep = with_common(json!({
        "type": "object",
        "description": "Steps all at once; its result is the list of theirs, in their order. Without members it is `[]`.",
        "required": ["group"],
        "properties": {
            "group": {"type": "array", "items": {"$ref": "#/components/schemas/Step"}},
            "cancel_rest": cancel_rest(),
        },
        "examples": [{
            "group": [{"task": "fetch", "args": ["a"]}, {"task": "fetch", "args": ["b"], "on_failure": "continue"}],
            "cancel_rest": true,
        }],
    }));
    /// A group whose results a body takes.
    ChordStep = with_common(json!({
        "type": "object",
        "description": "A group whose list of results a body takes. The body runs once, when every member has ended.",
        "required": ["chord", "body"],
        "properties": {
            "chord": {"type": "array", "items": {"$ref": "#/components/schemas/Step"}},
            "body": {"$ref": "#/components/schemas/Step"},
            "cancel_rest": cancel_rest(),
        },
        "examples": [{
            "chord": [{"task": "count_words", "args": ["a b"]}, {"task": "count_words", "args": ["c"]}],
            "body": {"task": "merge_counts"},
        }],
    }));
    /// The options of a step.
    StepOptions = json!({
        "description": "The fields of a policy, and when the job starts, counted from the moment that it is ready. An \
            idempotency key is the workflow's, not a step's.",
        "allOf": [
            {"$ref": "#/components/schemas/PolicyFields"},
            {"type": "object", "properties": {
                "countdown_ms": {"type": "integer", "minimum": 0, "description": "Wait so many milliseconds."},
                "eta": {"type": "string", "format": "date-time", "description": "Wait for this time, RFC 3339."},
            }},
        ],
    });
}

/// Any JSON: in this crate's words a schema whose type is nothing. It is written without a type.
fn anything() -> Value {
    json!({ "type": null })
}

fn cancel_rest() -> Value {
    json!({"type": "boolean", "default": false, "description": "The first failure cancels the members that are left."})
}

/// The fields that every kind of step may have.
fn with_common(mut schema: Value) -> Value {
    let steps =
        |text: &str| json!({"type": "array", "items": {"$ref": "#/components/schemas/Step"}, "description": text});
    schema["additionalProperties"] = json!(false);
    schema["properties"]["link"] = steps("Start when the step succeeded, with its result.");
    schema["properties"]["link_error"] = steps("Start when the step failed, with the error.");
    schema["properties"]["on_failure"] = json!({
        "type": "string", "enum": ["fail", "continue", "ignore"], "default": "fail",
        "description": "What its failure means to what waits for it: that fails too; goes on with `{\"error\": {…}}` in the \
            place of the result; goes on with `null`. Of a group: of each member that says nothing itself.",
    });
    schema["properties"]["label"] = json!({
        "type": "string", "minLength": 1, "maxLength": 128, "description": "A name for people.",
    });
    schema
}

/// The innermost step of a submission's canvas that has a wrong shape: its JSON pointer, and what is wrong. None when
/// that is not in the canvas, or the body is too long to look.
pub(crate) fn step_fault(body: &str) -> Option<(String, String)> {
    if body.len() > MAX_SEARCHED_BYTES {
        return None;
    }
    let body: Value = serde_json::from_str(body).ok()?;
    fault(body.get("canvas")?, "/canvas")
}

fn fault(step: &Value, pointer: &str) -> Option<(String, String)> {
    let error = serde_json::from_value::<Canvas>(step.clone()).err()?;
    let lists = ["chain", "group", "chord", "link", "link_error"].into_iter().filter_map(|key| {
        let items = step.get(key)?.as_array()?;
        items.iter().enumerate().find_map(|(at, item)| fault(item, &format!("{pointer}/{key}/{at}")))
    });
    let body = step.get("body").and_then(|body| fault(body, &format!("{pointer}/body")));
    Some(lists.chain(body).next().unwrap_or_else(|| (pointer.to_owned(), error.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps() -> [Value; 4] {
        [TaskStep::schema(), ChainStep::schema(), GroupStep::schema(), ChordStep::schema()]
            .map(|schema| serde_json::to_value(schema).unwrap())
    }

    #[test]
    fn every_example_is_a_canvas() {
        for schema in steps() {
            let examples = schema["examples"].as_array().unwrap();
            assert!(!examples.is_empty());
            for example in examples {
                serde_json::from_value::<Canvas>(example.clone()).unwrap_or_else(|e| panic!("{e}: {example}"));
            }
        }
    }

    #[test]
    fn every_field_that_is_read_is_described_and_no_other() {
        let unknown = serde_json::from_str::<Canvas>(r#"{"task": "a", "nonsense": 1}"#).unwrap_err().to_string();
        let read: std::collections::BTreeSet<&str> = unknown.split('`').skip(3).step_by(2).collect();
        let schemas = steps();
        let described = schemas.iter().flat_map(|schema| schema["properties"].as_object().unwrap().keys());
        assert_eq!(described.map(String::as_str).collect::<std::collections::BTreeSet<_>>(), read);
    }

    #[test]
    fn the_innermost_wrong_step_is_found() {
        let body = json!({"canvas": {"chord": [{"task": "a"}], "body": {"chain": [{"task": "b"}, {"tsk": "c"}]}}});
        let (pointer, detail) = step_fault(&body.to_string()).unwrap();
        assert_eq!(pointer, "/canvas/body/chain/1");
        assert!(detail.contains("tsk"), "{detail}");
        assert_eq!(step_fault(r#"{"canvas": {"task": "a"}, "nam": 1}"#), None);
    }
}
