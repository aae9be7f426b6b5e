//! A schedule of Celery as a `when` of ours.

use serde_json::Value as Json;

use super::{
    Note,
    fields::{Field, cron_field},
    literal::{Call, Node, Source, Value, described, float},
};
use crate::{
    cron::DayRule,
    solar::SolarEvent,
    spec::{OneOrMany, SolarSpec, TimingSpec, When},
    timing::Timing,
};

/// Why a schedule cannot be taken over.
#[derive(Debug)]
pub(super) struct Fault {
    pub line: u32,
    pub reason: String,
}

impl Fault {
    pub fn new(line: u32, reason: impl Into<String>) -> Self {
        Self { line, reason: reason.into() }
    }
}

/// A schedule that was understood.
#[derive(Debug)]
pub(super) struct Understood {
    pub when: Json,
    /// Whether the zone decides when it fires.
    pub has_zone: bool,
}

type Result<T> = std::result::Result<T, Fault>;

/// The `when` of a schedule, checked in this zone.
pub(super) fn understood(node: &Node, zone: Option<&str>, notes: &mut Vec<Note>) -> Result<Understood> {
    let when = when(node, notes)?;
    let has_zone = when.cron.is_some();
    let zone = zone.filter(|_| has_zone).map(str::to_owned);
    let json = serde_json::to_value(&when).map_err(|error| Fault::new(node.line, error.to_string()))?;
    let spec = TimingSpec { when, zone, starts_at: None, ends_at: None };
    Timing::new(spec).map_err(|error| Fault::new(node.line, error.to_string()))?;
    Ok(Understood { when: json, has_zone })
}

fn when(node: &Node, notes: &mut Vec<Note>) -> Result<When> {
    match &node.value {
        Value::Int(_) | Value::Float(_) => every(node, seconds(node)?),
        // Of JSON: an expression, or the call as a text.
        Value::Text(text) => match text.contains('(') {
            true => of_text(node.line, text, notes),
            false => Ok(cron(text.split_whitespace().collect::<Vec<_>>().join(" "))),
        },
        Value::Call(call) => called(node, call, notes),
        Value::Dict(pairs) => of_dict(node, pairs, notes),
        other => Err(Fault::new(node.line, format!("its schedule cannot be read: {}", described(other)))),
    }
}

fn cron(expression: String) -> When {
    When { cron: Some(OneOrMany::One(expression)), days: Some(DayRule::And), ..When::default() }
}

fn of_text(line: u32, text: &str, notes: &mut Vec<Note>) -> Result<When> {
    let source = Source::new(text, false);
    let (node, end) = source.value(0);
    match &node.value {
        Value::Call(call) if end >= source.tokens.len() => {
            called(&Node { line, value: node.value.clone() }, call, notes).map_err(|fault| Fault { line, ..fault })
        }
        _ => Err(Fault::new(line, "its schedule is a text that is no cron expression and no call")),
    }
}

fn called(node: &Node, call: &Call, notes: &mut Vec<Note>) -> Result<When> {
    match call.last_name() {
        "crontab" => crontab(node.line, call, notes),
        "from_string" => from_string(node.line, call),
        "timedelta" => every(node, timedelta(node.line, call)?),
        "schedule" => interval(node.line, call, notes),
        "solar" => solar(node.line, call),
        _ => Err(Fault::new(
            node.line,
            format!("{}: known are crontab, timedelta, schedule and solar", described(&node.value)),
        )),
    }
}

/// The arguments of a call by their names.
fn named<'a>(line: u32, call: &'a Call, names: &[&'static str]) -> Result<Vec<(&'a str, &'a Node)>> {
    let what = call.last_name();
    if call.args.len() > names.len() {
        return Err(Fault::new(line, format!("{what} has {} arguments: at most {}", call.args.len(), names.len())));
    }
    let mut all: Vec<(&str, &Node)> = names.iter().copied().zip(&call.args).collect();
    for (name, node) in &call.kwargs {
        if !names.contains(&name.as_str()) {
            return Err(Fault::new(node.line, format!("the argument {name} of {what} has no counterpart here")));
        }
        if all.iter().any(|(known, _)| known == name) {
            return Err(Fault::new(node.line, format!("the argument {name} of {what} is given twice")));
        }
        all.push((name, node));
    }
    Ok(all)
}

fn crontab(line: u32, call: &Call, notes: &mut Vec<Note>) -> Result<When> {
    let order = [Field::Minute, Field::Hour, Field::WeekDay, Field::MonthDay, Field::Month];
    let names = order.map(Field::name);
    let given = named(line, call, &names)?;
    if call.args.len() > 2 {
        let text = "the day of the week is read as the third argument of crontab, as Celery has it";
        notes.push(Note { line, text: text.into() });
    }
    let mut texts: [String; 5] = std::array::from_fn(|_| "*".to_owned());
    for (name, node) in given {
        let Some(at) = order.iter().position(|field| field.name() == name) else { continue };
        texts[at] = cron_field(order[at], node).map_err(|reason| Fault::new(node.line, format!("{name}: {reason}")))?;
    }
    let [minute, hour, week_day, month_day, month] = texts;
    Ok(cron(format!("{minute} {hour} {month_day} {month} {week_day}")))
}

fn from_string(line: u32, call: &Call) -> Result<When> {
    match (call.args.as_slice(), call.kwargs.as_slice()) {
        ([Node { value: Value::Text(text), .. }], []) => {
            Ok(cron(text.split_whitespace().collect::<Vec<_>>().join(" ")))
        }
        _ => Err(Fault::new(line, "from_string has other arguments than one text")),
    }
}

/// A number of seconds, or a timedelta.
fn seconds(node: &Node) -> Result<f64> {
    match &node.value {
        Value::Call(call) if call.last_name() == "timedelta" => timedelta(node.line, call),
        value => float(value).ok_or_else(|| {
            Fault::new(node.line, format!("no number of seconds and no timedelta: {}", described(value)))
        }),
    }
}

/// Milliseconds of a number of seconds or a timedelta.
pub(super) fn milliseconds(node: &Node) -> std::result::Result<u64, String> {
    let ms = (seconds(node).map_err(|fault| fault.reason)? * 1_000.0).round();
    // Below 2^53 every whole number is exact.
    (0.0..9.0e15).contains(&ms).then_some(ms as u64).ok_or_else(|| "the time is negative or too long".to_owned())
}

/// The seconds of a timedelta.
fn timedelta(line: u32, call: &Call) -> Result<f64> {
    const UNITS: [(&str, f64); 7] = [
        ("days", 86_400.0),
        ("seconds", 1.0),
        ("microseconds", 1e-6),
        ("milliseconds", 1e-3),
        ("minutes", 60.0),
        ("hours", 3_600.0),
        ("weeks", 604_800.0),
    ];
    let mut sum = 0.0;
    for (name, node) in named(line, call, &UNITS.map(|(name, _)| name))? {
        let unit = UNITS.iter().find(|(known, _)| *known == name).map_or(0.0, |(_, unit)| *unit);
        let number = float(&node.value);
        sum += unit * number.ok_or_else(|| Fault::new(node.line, format!("{name}: {}", described(&node.value))))?;
    }
    Ok(sum)
}

/// `schedule(run_every, relative)`.
fn interval(line: u32, call: &Call, notes: &mut Vec<Note>) -> Result<When> {
    let given = named(line, call, &["run_every", "relative"])?;
    let Some((_, run_every)) = given.iter().find(|(name, _)| *name == "run_every") else {
        return Err(Fault::new(line, "schedule has no run_every"));
    };
    if let Some((_, relative)) = given.iter().find(|(name, _)| *name == "relative") {
        self::relative(relative, notes);
    }
    match &run_every.value {
        // A schedule within one is that one.
        Value::Call(inner) if inner.last_name() != "timedelta" => called(run_every, inner, notes),
        _ => every(run_every, seconds(run_every)?),
    }
}

/// Celery's `relative`: intervals are counted from round times, as they always are here.
pub(super) fn relative(node: &Node, notes: &mut Vec<Note>) {
    match &node.value {
        Value::Bool(_) | Value::Null => {}
        other => notes.push(Note { line: node.line, text: format!("relative is left away: {}", described(other)) }),
    }
}

fn every(node: &Node, seconds: f64) -> Result<When> {
    let ms = (seconds * 1_000.0).round();
    let text = match ms {
        _ if !(1_000.0..1e15).contains(&ms) => {
            let reason = format!("every {seconds} s: an interval here is from 1 second to 10 years");
            return Err(Fault::new(node.line, reason));
        }
        _ if ms % 3_600_000.0 == 0.0 => format!("{}h", ms / 3_600_000.0),
        _ if ms % 60_000.0 == 0.0 => format!("{}m", ms / 60_000.0),
        _ if ms % 1_000.0 == 0.0 => format!("{}s", ms / 1_000.0),
        _ => format!("{ms}ms"),
    };
    Ok(When { every: Some(text), ..When::default() })
}

fn solar(line: u32, call: &Call) -> Result<When> {
    let given = named(line, call, &["event", "lat", "lon"])?;
    let node = |wanted: &str| {
        let found = given.iter().find(|(name, _)| *name == wanted).map(|(_, node)| *node);
        found.ok_or_else(|| Fault::new(line, format!("solar has no {wanted}")))
    };
    let number = |wanted: &str| {
        let node = node(wanted)?;
        float(&node.value).ok_or_else(|| Fault::new(node.line, format!("{wanted}: {}", described(&node.value))))
    };
    let event = node("event")?;
    let Value::Text(name) = &event.value else {
        return Err(Fault::new(event.line, format!("event: {}", described(&event.value))));
    };
    let names = SolarEvent::ALL.map(SolarEvent::as_str).join(", ");
    let event =
        SolarEvent::from_name(name).ok_or_else(|| Fault::new(event.line, format!("event: use one of {names}")))?;
    let solar = SolarSpec { event, latitude: number("lat")?, longitude: number("lon")? };
    Ok(When { solar: Some(solar), ..When::default() })
}

/// In JSON, or as a dict: `{"crontab": {"minute": 0}}`, or with the kind in `__type__` or `type`.
fn of_dict(node: &Node, pairs: &[(Node, Node)], notes: &mut Vec<Note>) -> Result<When> {
    let unknown = || Fault::new(node.line, "its schedule is a dict of no known form");
    let fields = fields_of(pairs).ok_or_else(unknown)?;
    let is_kind = |name: &str| matches!(name, "__type__" | "type");
    let kind = fields.iter().find_map(|(name, field)| match &field.value {
        Value::Text(kind) if is_kind(name) => Some(kind.as_str()),
        _ => None,
    });
    let (kind, fields) = match (kind, fields.as_slice()) {
        (Some(kind), _) => (kind, fields.into_iter().filter(|(name, _)| !is_kind(name)).collect()),
        (None, [(kind, Node { value: Value::Dict(inner), .. })]) => (*kind, fields_of(inner).ok_or_else(unknown)?),
        (None, [("interval" | "every" | "seconds" | "run_every", _)]) => ("schedule", fields),
        _ => return Err(unknown()),
    };
    let name = if kind == "interval" { "schedule" } else { kind };
    let renamed = |field: &str| match (name, field) {
        ("schedule", "every" | "interval" | "seconds") => "run_every".to_owned(),
        ("solar", "latitude") => "lat".to_owned(),
        ("solar", "longitude") => "lon".to_owned(),
        _ => field.to_owned(),
    };
    let kwargs = fields.into_iter().map(|(field, value)| (renamed(field), value.clone())).collect();
    called(node, &Call { name: name.to_owned(), args: Vec::new(), kwargs }, notes)
}

/// The fields of a dict; none if a key is no text.
pub(super) fn fields_of(pairs: &[(Node, Node)]) -> Option<Vec<(&str, &Node)>> {
    let mut fields = Vec::with_capacity(pairs.len());
    for (key, value) in pairs {
        let Value::Text(name) = &key.value else { return None };
        fields.push((name.as_str(), value));
    }
    Some(fields)
}
