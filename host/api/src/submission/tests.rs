//! The borrowed binding agrees with the model's, and the text of a spec is a spec.

use serde_json::{Value, json};
use umbel_model::{Parameter, PolicyPatch};

use super::*;

fn deployed(parameters: Vec<Parameter>) -> Deployed {
    let slots = parameters.iter().map(|p| crate::task_cache::Slot {
        name_json: Value::from(p.name.as_str()).to_string(),
        default_json: p.default.as_ref().map(ToString::to_string),
    });
    Deployed {
        name: TaskName::new("t").unwrap(),
        digest: umbel_model::Digest::of(b"m"),
        slots: slots.collect(),
        schemas: Arc::new(crate::schemas::Schemas::compile(&parameters).unwrap()),
        parameters,
        policy: PolicyPatch::default(),
    }
}

fn parameters() -> Vec<Parameter> {
    let plain = |name: &str, default| Parameter { name: name.into(), schema: json!(true), default };
    vec![plain("x", None), plain("y", Some(json!(null))), plain("z\"é", Some(json!([3])))]
}

/// What `bound` makes of a signature, as a JSON object by name.
fn by_text(deployed: &Deployed, signature: &Signature<'_>) -> Option<Value> {
    let args = signature.args.as_deref().unwrap_or_default();
    let kwargs = signature.kwargs.as_ref().map_or(&[][..], |k| &k.0);
    let bound = bound(deployed, args, kwargs)?;
    let fields = deployed.parameters.iter().zip(bound).map(|(parameter, value)| {
        let value =
            value.map_or_else(|| parameter.default.clone().unwrap(), |v| serde_json::from_str(v.get()).unwrap());
        (parameter.name.clone(), value)
    });
    Some(Value::Object(fields.collect()))
}

#[test]
fn binding_text_agrees_with_the_model() {
    let deployed = deployed(parameters());
    let names = ["x", "y", "z\"é", "w"];
    // Every number of positions with every set of names.
    for args in 0..=4_usize {
        for mask in 0..16_usize {
            let args: Vec<Value> = (0..args).map(Value::from).collect();
            let kwargs: serde_json::Map<String, Value> = names
                .iter()
                .enumerate()
                .filter(|(n, _)| mask >> n & 1 == 1)
                .map(|(n, k)| ((*k).into(), json!(n)))
                .collect();
            let text = json!({"task": "t", "args": args, "kwargs": kwargs}).to_string();
            let signature: Signature<'_> = serde_json::from_str(&text).unwrap();
            let expected = binding::bind(&deployed.parameters, args, kwargs).ok().map(Value::Object);
            assert_eq!(by_text(&deployed, &signature), expected, "{text}");
        }
    }
}

#[test]
fn a_name_given_twice_is_refused() {
    let text = r#"{"task":"t","kwargs":{"x":1,"x":2}}"#;
    let signature: Signature<'_> = serde_json::from_str(text).unwrap();
    let deployed = deployed(parameters());
    assert!(by_text(&deployed, &signature).is_none());
    let kwargs = &signature.kwargs.unwrap().0;
    assert_eq!(misfit(&deployed, &[], kwargs).code(), "invalid_arguments");
}

#[test]
fn options_take_policy_fields_and_name_what_they_do_not_know() {
    let options = options_of(r#"{"priority": 9, "countdown_ms": 5, "idempotency_key": "k", "queue": null}"#).unwrap();
    assert_eq!((options.policy.priority, options.start), (Some(9), Some(Start::After(5))));
    for (json, code) in [
        (r#"{"prioritty": 9}"#, "invalid_body"),
        (r#"{"priority": "high"}"#, "invalid_body"),
        (r#"{"countdown_ms": -1}"#, "invalid_option"),
        (r#"{"countdown_ms": 1e300}"#, "invalid_option"),
        (r#"{"eta": "tomorrow"}"#, "invalid_option"),
        (r#"{"eta": "2999-01-01T00:00:00Z"}"#, "invalid_option"),
        (r#"{"eta": "2026-01-01T00:00:00Z", "countdown_ms": 1}"#, "invalid_option"),
        (r#"{"idempotency_key": ""}"#, "invalid_option"),
        (r#"{"queue": "a/b"}"#, "invalid_body"),
        (r#"[]"#, "invalid_body"),
    ] {
        assert_eq!(options_of(json).unwrap_err().code(), code, "{json}");
    }
}
