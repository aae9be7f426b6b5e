//! One entry of a `beat_schedule` as a definition of a schedule here.

use std::collections::BTreeSet;

use serde_json::{Map, Value as Json};
use umbel_model::TaskName;

use super::{
    Imported, LeftOut, Note,
    literal::{Node, Value, described},
    when::{Fault, Understood, fields_of, milliseconds, relative, understood},
};

/// Longest name of a schedule, bytes.
const MAX_NAME: usize = 100;
/// Values within values of arguments.
const MAX_DEPTH: u32 = 64;

type Result<T> = std::result::Result<T, Fault>;

/// Names that were given to schedules: each once.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeSet<String>);

impl Names {
    /// The name that a schedule can have: letters, digits, `_`, `.` and `-`.
    fn given(&mut self, name: &str) -> String {
        let mut own = String::new();
        for c in name.chars() {
            match c {
                c if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-') => own.push(c),
                // Several that cannot be are one.
                _ if own.ends_with('-') => {}
                _ => own.push('-'),
            }
        }
        let mut own = own.trim_matches('-').to_owned();
        if !own.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            own.insert(0, '_');
        }
        own.truncate(MAX_NAME);
        let (base, mut count) = (own.clone(), 1);
        while !self.0.insert(own.clone()) {
            count += 1;
            let end = format!("-{count}");
            own = format!("{}{end}", &base[..base.len().min(MAX_NAME - end.len())]);
        }
        own
    }
}

/// An entry, or why it cannot be taken over.
pub(super) fn imported(
    name: &str,
    node: &Node,
    zone: Option<&str>,
    names: &mut Names,
) -> std::result::Result<Imported, LeftOut> {
    let mut notes = Vec::new();
    let definition = definition(node, zone, &mut notes).map_err(|fault| LeftOut {
        name: name.to_owned(),
        line: fault.line,
        reason: fault.reason,
    })?;
    let own = names.given(name);
    if own != name {
        notes.insert(0, Note { line: node.line, text: format!("it was called {name:?}") });
    }
    Ok(Imported { name: own, line: node.line, definition, notes })
}

fn definition(node: &Node, zone: Option<&str>, notes: &mut Vec<Note>) -> Result<Map<String, Json>> {
    let Value::Dict(pairs) = &node.value else {
        return Err(Fault::new(node.line, format!("it is no dict: {}", described(&node.value))));
    };
    let fields =
        fields_of(pairs).ok_or_else(|| Fault::new(node.line, "a key of it is no text, or it takes in another dict"))?;
    let mut start = Map::new();
    let (mut when, mut more) = (None, Map::new());
    for (name, field) in fields {
        let line = field.line;
        let mut note = |text: String| notes.push(Note { line, text });
        match name {
            "task" => {
                start.insert("task".into(), task(field)?.into());
            }
            "schedule" => when = Some(understood(field, zone, notes)?),
            "args" => put(&mut start, "args", arguments(field)?),
            "kwargs" => put(&mut start, "kwargs", keywords(field)?),
            "options" => put(&mut start, "options", options(field, notes)?),
            "relative" => relative(field, notes),
            "enabled" => match field.value {
                Value::Bool(enabled) => {
                    more.extend((!enabled).then(|| ("paused".to_owned(), Json::Bool(true))));
                }
                ref other => note(format!("enabled is left away: {}", described(other))),
            },
            "name" => {}
            "description" => match &field.value {
                Value::Text(text) if text.len() <= 1_024 => {
                    more.insert("description".into(), text.as_str().into());
                }
                other => note(format!("the description is left away: {}", described(other))),
            },
            other => note(format!("{other:?} has no counterpart and is left away")),
        }
    }
    let Some(Understood { when, has_zone }) = when else {
        return Err(Fault::new(node.line, "it has no schedule"));
    };
    if !start.contains_key("task") {
        return Err(Fault::new(node.line, "it has no task"));
    }
    let mut definition = more;
    definition.insert("start".into(), Json::Object(start));
    definition.insert("when".into(), when);
    // Beat does not look whether the run before is over.
    definition.insert("overlap".into(), "allow".into());
    if let Some(zone) = zone.filter(|_| has_zone) {
        definition.insert("zone".into(), zone.into());
    }
    Ok(definition)
}

/// Nothing is written for an empty list or dict.
fn put(start: &mut Map<String, Json>, name: &str, value: Json) {
    let is_empty = value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty);
    if !is_empty {
        start.insert(name.to_owned(), value);
    }
}

fn task(node: &Node) -> Result<String> {
    match &node.value {
        Value::Text(name) => match TaskName::new(name.as_str()) {
            Ok(_) => Ok(name.clone()),
            Err(error) => Err(Fault::new(node.line, format!("its task {name:?} cannot be one here: {error}"))),
        },
        other => Err(Fault::new(node.line, format!("its task is no text: {}", described(other)))),
    }
}

fn arguments(node: &Node) -> Result<Json> {
    match &node.value {
        Value::List(_) => json(node, "args", MAX_DEPTH),
        Value::Null => Ok(Json::Array(Vec::new())),
        other => Err(Fault::new(node.line, format!("args: no list: {}", described(other)))),
    }
}

fn keywords(node: &Node) -> Result<Json> {
    match &node.value {
        Value::Dict(_) => json(node, "kwargs", MAX_DEPTH),
        Value::Null => Ok(Json::Object(Map::new())),
        other => Err(Fault::new(node.line, format!("kwargs: no dict: {}", described(other)))),
    }
}

/// A literal as JSON. `place` is where it is, for a fault.
fn json(node: &Node, place: &str, depth: u32) -> Result<Json> {
    let fault = |reason: String| Fault::new(node.line, format!("{place}: {reason}"));
    if depth == 0 {
        return Err(fault("it is nested too deep".into()));
    }
    match &node.value {
        Value::Null => Ok(Json::Null),
        Value::Bool(truth) => Ok((*truth).into()),
        Value::Int(number) => Ok((*number).into()),
        Value::Float(number) => Ok((*number).into()),
        Value::Text(text) => Ok(text.as_str().into()),
        Value::List(items) => {
            let item = |(at, item): (usize, &Node)| json(item, &format!("{place}[{at}]"), depth - 1);
            items.iter().enumerate().map(item).collect::<Result<Vec<_>>>().map(Json::Array)
        }
        Value::Dict(pairs) => {
            let mut object = Map::new();
            for (key, value) in pairs {
                let key = match &key.value {
                    Value::Text(key) => key.clone(),
                    // As Celery's serializer writes it.
                    Value::Int(key) => key.to_string(),
                    other => {
                        return Err(Fault::new(key.line, format!("{place}: a key is no text: {}", described(other))));
                    }
                };
                let value = json(value, &format!("{place}.{key}"), depth - 1)?;
                object.insert(key, value);
            }
            Ok(Json::Object(object))
        }
        other => Err(fault(format!("JSON has no such value: {}", described(other)))),
    }
}

/// Options of `apply_async` as those of a job. Those without a counterpart are noted.
fn options(node: &Node, notes: &mut Vec<Note>) -> Result<Json> {
    let Value::Dict(pairs) = &node.value else {
        return match node.value {
            Value::Null => Ok(Json::Object(Map::new())),
            ref other => Err(Fault::new(node.line, format!("options: no dict: {}", described(other)))),
        };
    };
    let fields = fields_of(pairs)
        .ok_or_else(|| Fault::new(node.line, "options: a key is no text, or another dict is taken in"))?;
    let mut options = Map::new();
    for (name, field) in fields {
        let mut note = |text: String| notes.push(Note { line: field.line, text });
        match option(name, field, &mut note) {
            Ok(Some((own, value))) => {
                options.insert(own.to_owned(), value);
            }
            Ok(None) => {}
            Err(reason) => note(format!("the option {name} is left away: {reason}")),
        }
    }
    Ok(Json::Object(options))
}

type Option_ = Option<(&'static str, Json)>;

fn option(name: &str, field: &Node, note: &mut impl FnMut(String)) -> std::result::Result<Option_, String> {
    let time = |own| milliseconds(field).map(|ms| Some((own, ms.into())));
    match (name, &field.value) {
        (_, Value::Null) => Ok(None),
        ("queue", Value::Text(queue)) => Ok(Some(("queue", queue.as_str().into()))),
        ("queue", other) => Err(format!("no text: {}", described(other))),
        ("priority", Value::Int(priority @ 0..=9)) => {
            note(format!("priority {priority}: here 9 is first, as in RabbitMQ; with Redis Celery has 0 first"));
            Ok(Some(("priority", (*priority).into())))
        }
        ("priority", _) => Err("priorities here are 0 to 9".into()),
        ("expires", _) => time("expires_ms"),
        ("countdown", _) => time("countdown_ms"),
        ("time_limit", _) => time("time_limit_ms"),
        ("soft_time_limit", _) => time("soft_time_limit_ms"),
        ("ignore_result", Value::Bool(ignore)) => Ok(Some(("ignore_result", (*ignore).into()))),
        ("headers", Value::Dict(pairs)) => {
            let are_texts = pairs.iter().all(|(_, value)| matches!(value.value, Value::Text(_)));
            let headers = json(field, "headers", MAX_DEPTH).map_err(|fault| fault.reason)?;
            match are_texts {
                true => Ok(Some(("headers", headers))),
                false => Err("headers here are texts".into()),
            }
        }
        ("routing_key" | "exchange" | "exchange_type", _) => {
            Err("there are queues only, without exchanges: say `queue`".into())
        }
        ("eta", _) => Err("one fixed time makes no sense for each fire: say `countdown`".into()),
        ("task_id", _) => Err("each fire has an id of its own".into()),
        ("retry" | "retry_policy", _) => Err("a fire is not published to a broker that may refuse it".into()),
        ("serializer" | "compression", _) => Err("arguments are JSON".into()),
        ("link" | "link_error", _) => {
            Err("write the steps into `on_success` or `on_failure`, or start a canvas".into())
        }
        _ => Err("it has no counterpart".into()),
    }
}
