//! Binds a signature's `args` and `kwargs` to a task's parameters, as a Python call would.

use serde_json::{Map, Value, value::RawValue};

use crate::{Parameter, job::ParameterText};

/// A signature that does not fit the task. `pointer` is a JSON pointer into the request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pointer}: {detail}")]
pub struct BindError {
    pub pointer: String,
    pub detail: String,
}

/// The arguments by parameter name, defaults filled in. All problems are reported, not only the first.
pub fn bind(
    parameters: &[Parameter],
    args: Vec<Value>,
    kwargs: Map<String, Value>,
) -> Result<Map<String, Value>, Vec<BindError>> {
    let mut errors = Vec::new();
    let mut bound = Map::new();
    let given = args.len();
    for (at, value) in args.into_iter().enumerate() {
        match parameters.get(at) {
            Some(parameter) => {
                bound.insert(parameter.name.clone(), value);
            }
            None => {
                let detail = format!("the task takes {} arguments and {given} were given", parameters.len());
                errors.push(BindError { pointer: format!("/args/{at}"), detail });
                break;
            }
        }
    }
    for (name, value) in kwargs {
        let pointer = || format!("/kwargs/{}", escape(&name));
        if !parameters.iter().any(|p| p.name == name) {
            let known: Vec<&str> = parameters.iter().map(|p| p.name.as_str()).collect();
            let detail = format!("the task has no parameter of this name; it has: {}", known.join(", "));
            errors.push(BindError { pointer: pointer(), detail });
        } else if bound.contains_key(&name) {
            let detail = "was given twice: by position and by name".to_owned();
            errors.push(BindError { pointer: pointer(), detail });
        } else {
            bound.insert(name, value);
        }
    }
    for parameter in parameters {
        if bound.contains_key(&parameter.name) {
            continue;
        }
        match &parameter.default {
            Some(default) => {
                bound.insert(parameter.name.clone(), default.clone());
            }
            None => errors.push(BindError {
                pointer: format!("/kwargs/{}", escape(&parameter.name)),
                detail: format!("the required parameter `{}` is missing", parameter.name),
            }),
        }
    }
    if errors.is_empty() { Ok(bound) } else { Err(errors) }
}

/// The arguments by parameter name as JSON text, defaults filled in: `args` in their order, then `kwargs`. Values are
/// copied as they were written, so that big integers stay whole. Agrees with `bind`.
pub fn bind_text<'a>(
    parameters: &[ParameterText],
    args: impl IntoIterator<Item = &'a RawValue>,
    kwargs: impl IntoIterator<Item = (&'a str, &'a RawValue)>,
) -> Result<String, Vec<BindError>> {
    let mut errors = Vec::new();
    let mut bound: Vec<Option<&RawValue>> = vec![None; parameters.len()];
    let mut given = 0;
    for value in args {
        if let Some(slot) = bound.get_mut(given) {
            *slot = Some(value);
        }
        given += 1;
    }
    if given > parameters.len() {
        let detail = format!("the task takes {} arguments and {given} were given", parameters.len());
        errors.push(BindError { pointer: format!("/args/{}", parameters.len()), detail });
    }
    for (name, value) in kwargs {
        let detail = match parameters.iter().position(|p| p.name == name) {
            None => {
                let known: Vec<&str> = parameters.iter().map(|p| p.name.as_str()).collect();
                format!("the task has no parameter of this name; it has: {}", known.join(", "))
            }
            Some(at) if bound[at].is_some() => "was given twice: by position and by name".to_owned(),
            Some(at) => {
                bound[at] = Some(value);
                continue;
            }
        };
        errors.push(BindError { pointer: format!("/kwargs/{}", escape(name)), detail });
    }
    let mut text = String::from("{");
    for (parameter, value) in parameters.iter().zip(bound) {
        let Some(value) = value.or(parameter.default.as_deref()) else {
            errors.push(BindError {
                pointer: format!("/kwargs/{}", escape(&parameter.name)),
                detail: format!("the required parameter `{}` is missing", parameter.name),
            });
            continue;
        };
        if text.len() > 1 {
            text.push(',');
        }
        text.push_str(&Value::from(parameter.name.as_str()).to_string());
        text.push(':');
        text.push_str(value.get());
    }
    text.push('}');
    if errors.is_empty() { Ok(text) } else { Err(errors) }
}

/// Where in the request the value of `parameter` came from, as a JSON pointer.
pub fn pointer_of(parameters: &[Parameter], parameter: &str, given_args: usize) -> String {
    match parameters.iter().position(|p| p.name == parameter) {
        Some(at) if at < given_args => format!("/args/{at}"),
        _ => format!("/kwargs/{}", escape(parameter)),
    }
}

/// A JSON pointer's reference token (RFC 6901).
fn escape(token: &str) -> String {
    token.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parameters() -> Vec<Parameter> {
        let plain = |name: &str, default| Parameter { name: name.into(), schema: json!(true), default };
        vec![plain("x", None), plain("y", None), plain("z", Some(json!(3)))]
    }

    fn call(args: Value, kwargs: Value) -> Result<Value, Vec<String>> {
        let Value::Array(args) = args else { unreachable!() };
        let Value::Object(kwargs) = kwargs else { unreachable!() };
        bind(&parameters(), args, kwargs).map(Value::Object).map_err(|e| e.into_iter().map(|e| e.pointer).collect())
    }

    #[test]
    fn positions_names_and_defaults_fill_one_object() {
        assert_eq!(call(json!([1]), json!({"y": 2})), Ok(json!({"x": 1, "y": 2, "z": 3})));
        assert_eq!(call(json!([1, 2, null]), json!({})), Ok(json!({"x": 1, "y": 2, "z": null})));
    }

    #[test]
    fn text_is_bound_as_values_are() {
        let texts: Vec<ParameterText> = parameters()
            .into_iter()
            .map(|p| ParameterText {
                name: p.name,
                default: p.default.map(|d| RawValue::from_string(d.to_string()).unwrap()),
            })
            .collect();
        let cases = [
            (json!([1]), json!({"y": 2})),
            (json!([1, 2, null]), json!({})),
            (json!([]), json!({"a/b": 1})),
            (json!([1, 2, 3, 4, 5]), json!({})),
            (json!([1, 2]), json!({"x": 1})),
        ];
        for (args, kwargs) in cases {
            let raw = |v: &Value| RawValue::from_string(v.to_string()).unwrap();
            let list: Vec<_> = args.as_array().unwrap().iter().map(raw).collect();
            let named: Vec<_> = kwargs.as_object().unwrap().iter().map(|(k, v)| (k.clone(), raw(v))).collect();
            let text = bind_text(&texts, list.iter().map(|v| &**v), named.iter().map(|(k, v)| (k.as_str(), &**v)));
            let text = text.map(|t| serde_json::from_str::<Value>(&t).unwrap());
            let text = text.map_err(|e| e.into_iter().map(|e| e.pointer).collect::<Vec<_>>());
            assert_eq!(text, call(args, kwargs));
        }
    }

    #[test]
    fn every_problem_is_reported_where_it_is() {
        assert_eq!(
            call(json!([]), json!({"a/b": 1})),
            Err(vec!["/kwargs/a~1b".into(), "/kwargs/x".into(), "/kwargs/y".into()])
        );
        assert_eq!(call(json!([1, 2, 3, 4, 5]), json!({})), Err(vec!["/args/3".into()]));
        assert_eq!(call(json!([1, 2]), json!({"x": 1})), Err(vec!["/kwargs/x".into()]));
    }
}
