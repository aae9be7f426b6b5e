//! Describes names that are no names, schemas that are no schemas, and JSON that is none.

use umbel::raw::{Guest, Outcome, Parameter, TaskDescription};

struct Lie;

impl Guest for Lie {
    fn describe() -> Vec<TaskDescription> {
        let parameter = |name: &str, schema: &str, default: Option<&str>| Parameter {
            name: name.to_owned(),
            schema: schema.to_owned(),
            default: default.map(str::to_owned),
        };
        let task = |name: &str, parameters: Vec<Parameter>, policy: &str| TaskDescription {
            name: name.to_owned(),
            description: "\u{1b}[31mred\u{1b}[0m \u{202e}backwards".to_owned(),
            parameters,
            returns: Some("{\"type\":\"teapot\"}".to_owned()),
            policy: policy.to_owned(),
        };
        vec![
            task("not_a_schema", vec![parameter("x", r#"{"type":"no such type"}"#, None)], "{}"),
            task("schema_is_not_json", vec![parameter("x", "{", None)], "{}"),
            task("default_is_not_json", vec![parameter("x", "true", Some("{"))], "{}"),
            task("default_breaks_its_schema", vec![parameter("x", r#"{"type":"string"}"#, Some("5"))], "{}"),
            task("remote_reference", vec![parameter("x", r#"{"$ref":"http://127.0.0.1:1/secret"}"#, None)], "{}"),
            task("policy_is_not_json", vec![], "max_retries=3"),
            task("twice", vec![parameter("x", "true", None), parameter("x", "true", None)], "{}"),
            task("../../etc/passwd", vec![], "{}"),
            task("new\nline", vec![], "{}"),
            task("", vec![], "{}"),
            task("twice", vec![], "{}"),
        ]
    }

    fn run(_: String, _: String) -> Result<String, Outcome> {
        Ok("null".to_owned())
    }
}

#[cfg(target_arch = "wasm32")]
umbel::raw::export!(Lie with_types_in umbel::raw);
#[cfg(not(target_arch = "wasm32"))]
const _: fn() -> Vec<TaskDescription> = Lie::describe;
