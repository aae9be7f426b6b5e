//! Binds the `args` and `kwargs` of a call to a task's parameters, as a Python call would.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use crate::ParameterText;

/// Problems of one call that are reported at most.
const MAX_ERRORS: usize = 64;

/// Why a call does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BindProblem {
    /// More arguments by position than the task has parameters.
    TooMany,
    UnknownName,
    GivenTwice,
    /// A parameter without a default got no value.
    Missing,
}

/// One place where a call does not fit the task.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pointer}: {detail}")]
pub struct BindError {
    pub problem: BindProblem,
    /// JSON pointer into the call.
    pub pointer: String,
    pub detail: String,
}

/// The values of a call by parameter. `V` is a value as its caller knows it, such as its JSON text.
#[derive(Debug, Clone)]
pub struct Binding<'p, V> {
    parameters: &'p [ParameterText],
    /// One for each parameter: `None` where its default stands.
    values: Vec<Option<V>>,
    /// How many of them were given by position.
    positional: usize,
}

impl<'p, V> Binding<'p, V> {
    /// Binds a call. Looks at no value.
    ///
    /// # Errors
    /// All problems of the call, at most 64.
    pub fn new<'n>(
        parameters: &'p [ParameterText],
        args: impl IntoIterator<Item = V>,
        kwargs: impl IntoIterator<Item = (&'n str, V)>,
    ) -> Result<Self, Vec<BindError>> {
        let (binding, errors) = Self::partial(parameters, args, kwargs);
        if errors.is_empty() { Ok(binding) } else { Err(errors) }
    }

    /// As `new`, but keeps what fits beside the problems.
    pub fn partial<'n>(
        parameters: &'p [ParameterText],
        args: impl IntoIterator<Item = V>,
        kwargs: impl IntoIterator<Item = (&'n str, V)>,
    ) -> (Self, Vec<BindError>) {
        let mut errors = Vec::new();
        let mut values = Vec::with_capacity(parameters.len());
        let mut given = 0;
        for value in args {
            if given < parameters.len() {
                values.push(Some(value));
            }
            given += 1;
        }
        let positional = values.len();
        values.resize_with(parameters.len(), || None);
        if given > positional {
            let detail = format!("the task takes {positional} arguments and {given} were given");
            errors.push(BindError { problem: BindProblem::TooMany, pointer: format!("/args/{positional}"), detail });
        }
        for (name, value) in kwargs {
            let (problem, detail) = match parameters.iter().position(|p| p.name == name) {
                None if errors.len() < MAX_ERRORS => {
                    let known: Vec<&str> = parameters.iter().map(|p| p.name.as_str()).collect();
                    let detail = format!("the task has no parameter of this name; it has: {}", known.join(", "));
                    (BindProblem::UnknownName, detail)
                }
                None => break,
                Some(at) if at < positional => {
                    (BindProblem::GivenTwice, "was given twice: by position and by name".to_owned())
                }
                Some(at) if values[at].is_some() => (BindProblem::GivenTwice, "was given twice by name".to_owned()),
                Some(at) => {
                    values[at] = Some(value);
                    continue;
                }
            };
            errors.push(BindError { problem, pointer: name_pointer(name), detail });
        }
        for (parameter, value) in parameters.iter().zip(&values) {
            if value.is_none() && parameter.default.is_none() {
                let detail = format!("the required parameter `{}` is missing", parameter.name);
                let pointer = name_pointer(&parameter.name);
                errors.push(BindError { problem: BindProblem::Missing, pointer, detail });
            }
        }
        errors.truncate(MAX_ERRORS);
        (Self { parameters, values, positional }, errors)
    }

    /// The values that were given, each with the number of its parameter.
    pub fn given(&self) -> impl Iterator<Item = (usize, &V)> {
        self.values.iter().enumerate().filter_map(|(at, value)| Some((at, value.as_ref()?)))
    }

    /// The value that was given for parameter number `at`; none where its default stands.
    pub fn value(&self, at: usize) -> Option<&V> {
        self.values.get(at)?.as_ref()
    }

    /// Where in the call the value of parameter number `at` is, as a JSON pointer.
    pub fn pointer(&self, at: usize) -> String {
        if at < self.positional { format!("/args/{at}") } else { name_pointer(&self.parameters[at].name) }
    }
}

impl Binding<'_, &RawValue> {
    /// The arguments by parameter name as JSON text, defaults filled in. Values are copied as they were written, so that
    /// big integers stay whole.
    pub fn to_json(&self) -> String {
        let bytes: usize = self.given().map(|(_, value)| value.get().len()).sum();
        let mut text = String::with_capacity(bytes + 32 * self.values.len() + 2);
        text.push('{');
        for (parameter, value) in self.parameters.iter().zip(&self.values) {
            let Some(value) = value.or(parameter.default.as_deref()) else { continue };
            if text.len() > 1 {
                text.push(',');
            }
            push_json_text(&mut text, &parameter.name);
            text.push(':');
            text.push_str(value.get());
        }
        text.push('}');
        text
    }

    /// The value of parameter number `at` as it was written, its default where none was given.
    pub fn argument(&self, at: usize) -> Option<&str> {
        self.value(at).copied().or(self.parameters.get(at)?.default.as_deref()).map(RawValue::get)
    }
}

/// The arguments of a call by parameter name as JSON text, defaults filled in.
///
/// # Errors
/// All problems of the call, at most 64.
pub fn bind_text<'a>(
    parameters: &[ParameterText],
    args: impl IntoIterator<Item = &'a RawValue>,
    kwargs: impl IntoIterator<Item = (&'a str, &'a RawValue)>,
) -> Result<String, Vec<BindError>> {
    Binding::new(parameters, args, kwargs).map(|binding| binding.to_json())
}

fn push_json_text(text: &mut String, name: &str) {
    if name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        text.push('"');
        text.push_str(name);
        text.push('"');
    } else {
        text.push_str(&Value::from(name).to_string());
    }
}

fn name_pointer(name: &str) -> String {
    format!("/kwargs/{}", escape(name))
}

/// A reference token of a JSON pointer (RFC 6901).
pub fn escape(token: &str) -> String {
    token.replace('~', "~0").replace('/', "~1")
}

/// Arguments of one call by position, and those by name, that are read at all: no task has as many parameters, so a call with
/// more is wrong, and reading on would only cost.
pub const MAX_CALL_ARGUMENTS: usize = 1_024;

/// The items of a JSON list, borrowed from its text. One of more than `MAX_CALL_ARGUMENTS` is refused.
#[derive(Debug, Default)]
pub struct RawList<'a>(Vec<&'a RawValue>);

impl<'a> RawList<'a> {
    pub fn as_slice(&self) -> &[&'a RawValue] {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for RawList<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items;
        impl<'de> Visitor<'de> for Items {
            type Value = RawList<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of arguments by position")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element::<&'de RawValue>()? {
                    items.push(item);
                    check_count::<A::Error>(items.len(), "position")?;
                }
                Ok(RawList(items))
            }
        }
        deserializer.deserialize_seq(Items)
    }
}

fn check_count<E: de::Error>(count: usize, by: &str) -> Result<(), E> {
    if count <= MAX_CALL_ARGUMENTS {
        return Ok(());
    }
    Err(E::custom(format_args!("a call has at most {MAX_CALL_ARGUMENTS} arguments by {by}; send one list or object")))
}

/// The fields of a JSON object in the order in which they were written, borrowed from its text. One of more than
/// `MAX_CALL_ARGUMENTS` is refused.
#[derive(Debug, Default)]
pub struct RawObject<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> RawObject<'a> {
    pub fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(name, value)| (&**name, *value))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for RawObject<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// A text that is borrowed when it has no escapes.
        #[derive(Deserialize)]
        struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = RawObject<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of arguments by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::with_capacity(map.size_hint().unwrap_or(2));
                while let Some((Name(name), value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                    fields.push((name, value));
                    check_count::<A::Error>(fields.len(), "name")?;
                }
                Ok(RawObject(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Parameter;

    fn parameters() -> Vec<ParameterText> {
        let plain = |name: &str, default| Parameter { name: name.into(), schema: (&json!(true)).into(), default };
        [plain("x", None), plain("y", None), plain("z\"é", Some((&json!(3)).into()))]
            .iter()
            .map(ParameterText::from)
            .collect()
    }

    fn call(args: &str, kwargs: &str) -> Result<String, Vec<String>> {
        let args: Vec<&RawValue> = serde_json::from_str(args).unwrap();
        let kwargs: RawObject<'_> = serde_json::from_str(kwargs).unwrap();
        bind_text(&parameters(), args, kwargs.iter()).map_err(|e| e.into_iter().map(|e| e.pointer).collect())
    }

    #[test]
    fn positions_names_and_defaults_fill_one_object() {
        let bound = |args, kwargs| serde_json::from_str::<Value>(&call(args, kwargs).unwrap()).unwrap();
        assert_eq!(bound("[1]", r#"{"y": 2}"#), json!({"x": 1, "y": 2, "z\"é": 3}));
        assert_eq!(bound("[1, 2, null]", "{}"), json!({"x": 1, "y": 2, "z\"é": null}));
    }

    #[test]
    fn values_stay_as_they_were_written() {
        let text = call("[100000000000000000000000000001, 1.50]", "{}").unwrap();
        assert_eq!(text, r#"{"x":100000000000000000000000000001,"y":1.50,"z\"é":3}"#);
    }

    #[test]
    fn every_problem_is_reported_where_it_is() {
        assert_eq!(
            call("[]", r#"{"a/b": 1}"#),
            Err(vec!["/kwargs/a~1b".into(), "/kwargs/x".into(), "/kwargs/y".into()])
        );
        assert_eq!(call("[1, 2, 3, 4, 5]", "{}"), Err(vec!["/args/3".into()]));
        assert_eq!(call("[1, 2]", r#"{"x": 1}"#), Err(vec!["/kwargs/x".into()]));
        assert_eq!(call("[]", r#"{"x": 1, "x": 2, "y": 3}"#), Err(vec!["/kwargs/x".into()]));
    }

    #[test]
    fn a_call_with_more_arguments_than_any_task_takes_is_refused_where_the_limit_is() {
        let object = |n: usize| format!("{{{}}}", (0..n).map(|n| format!(r#""k{n}":1"#)).collect::<Vec<_>>().join(","));
        let list = |n: usize| format!("[{}]", vec!["1"; n].join(","));
        assert!(serde_json::from_str::<RawObject<'_>>(&object(MAX_CALL_ARGUMENTS)).is_ok());
        assert!(serde_json::from_str::<RawList<'_>>(&list(MAX_CALL_ARGUMENTS)).is_ok());
        // What comes behind is not read: it is no JSON, and nobody says so.
        let broken = |text: String| format!("{}?", &text[..text.len() - 1]);
        let by_name = serde_json::from_str::<RawObject<'_>>(&broken(object(MAX_CALL_ARGUMENTS + 2))).unwrap_err();
        assert!(by_name.to_string().contains("at most 1024 arguments by name"), "{by_name}");
        let by_position = serde_json::from_str::<RawList<'_>>(&broken(list(MAX_CALL_ARGUMENTS + 2))).unwrap_err();
        assert!(by_position.to_string().contains("at most 1024 arguments by position"), "{by_position}");
    }

    #[test]
    fn the_number_of_problems_is_bounded() {
        let kwargs: Vec<String> = (0..1_000).map(|n| format!(r#""k{n}":1"#)).collect();
        assert_eq!(call("[]", &format!("{{{}}}", kwargs.join(","))).unwrap_err().len(), MAX_ERRORS);
    }

    /// Every number of positions with every set of names, against the rule as it is said.
    #[test]
    fn a_call_fits_if_each_parameter_gets_one_value_or_has_a_default() {
        let names = ["x", "y", "z\"é", "w"];
        for args in 0..=4_usize {
            for mask in 0..16_usize {
                let given = (0..4).filter(|n| mask >> n & 1 == 1);
                let kwargs: serde_json::Map<String, Value> = given.map(|n| (names[n].to_owned(), json!(n))).collect();
                let list = Value::from((0..args).collect::<Vec<_>>()).to_string();
                let bound = call(&list, &Value::Object(kwargs).to_string());
                let times = |n: usize| usize::from(n < args) + (mask >> n & 1);
                let fits = args <= 3 && mask < 8 && (0..2).all(|n| times(n) == 1) && times(2) <= 1;
                assert_eq!(bound.is_ok(), fits, "{args} {mask}");
            }
        }
    }
}
