//! What an `apply` changes: schedules that are new, differ, stay as they are, or are not in the file any more.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    Result,
    output::Terminal,
    safe_text::{escaped, one_line, shortened},
};

/// The fields of a definition, in the order in which people read them.
const FIELDS: [&str; 16] = [
    "when",
    "zone",
    "starts_at",
    "ends_at",
    "start",
    "overlap",
    "catch_up",
    "catch_up_window_ms",
    "jitter_ms",
    "window_ms",
    "max_runs",
    "pause_after_failures",
    "keep_missed",
    "digest",
    "description",
    "source",
];
/// Characters of a value in the difference.
const SHOWN: usize = 160;

/// A schedule as the server shows it, field by field.
pub type View = BTreeMap<String, Box<RawValue>>;

/// A field that differs. None: it is not given.
#[derive(Debug, Serialize)]
pub struct FieldDiff {
    pub field: &'static str,
    pub from: Option<Box<RawValue>>,
    pub to: Option<Box<RawValue>>,
}

/// A schedule that is new.
#[derive(Debug, Serialize)]
pub struct Created {
    pub name: String,
    /// When it fires, in English.
    pub describe: String,
}

/// A schedule that differs.
#[derive(Debug, Serialize)]
pub struct Changed {
    pub name: String,
    pub fields: Vec<FieldDiff>,
}

/// A schedule of the name that something else has made.
#[derive(Debug, Serialize)]
pub struct Conflict {
    pub name: String,
    /// Empty: it was made without a source, as by `umbel schedule create`.
    pub source: String,
}

impl Conflict {
    /// For people.
    pub fn told(&self) -> String {
        let name = one_line(&self.name);
        match self.source.as_str() {
            "" => format!("{name}: it has no source, as those of umbel schedule create"),
            source => format!("{name}: its source is {}", one_line(source)),
        }
    }
}

/// All differences.
#[derive(Debug, Default, Serialize)]
pub struct Diff {
    pub created: Vec<Created>,
    pub changed: Vec<Changed>,
    /// Refused, unless they are taken over.
    pub conflicts: Vec<Conflict>,
    pub unchanged: Vec<String>,
    pub deleted: Vec<String>,
    /// Of the same source, not in the file, and not deleted.
    pub left_over: Vec<String>,
}

impl Diff {
    pub fn is_empty(&self) -> bool {
        self.created.is_empty() && self.changed.is_empty() && self.conflicts.is_empty() && self.deleted.is_empty()
    }

    /// For people: `+` is new, `~` changes, `!` is in conflict, `-` is deleted.
    pub fn print(&self, terminal: &Terminal) -> Result {
        for Created { name, describe } in &self.created {
            terminal.line(&format!("+ {}: {}", one_line(name), one_line(describe)))?;
        }
        for Changed { name, fields } in &self.changed {
            terminal.line(&format!("~ {}", one_line(name)))?;
            for field in fields {
                terminal.line(&format!("    {}", told(field)))?;
            }
        }
        for conflict in &self.conflicts {
            terminal.line(&format!("! {}", conflict.told()))?;
        }
        for name in &self.deleted {
            terminal.line(&format!("- {}", one_line(name)))?;
        }
        let Self { created, changed, conflicts, unchanged, deleted, left_over } = self;
        let counts = [created.len(), changed.len(), unchanged.len(), deleted.len()];
        let [new, changed, same, gone] = counts;
        terminal.note(&format!("{new} new, {changed} changed, {same} unchanged, {gone} to be deleted"));
        if !conflicts.is_empty() {
            terminal.note(&format!("{} were made by something else: --take-over changes them", conflicts.len()));
        }
        if !left_over.is_empty() {
            let names: Vec<String> = left_over.iter().map(|name| one_line(name)).collect();
            terminal.note(&format!("not in the file any more, and kept without --prune: {}", names.join(", ")));
        }
        Ok(())
    }
}

fn told(field: &FieldDiff) -> String {
    let text = |value: &Option<Box<RawValue>>| match value {
        Some(value) => shortened(&escaped(value.get()).replace('\n', " "), SHOWN),
        None => "not given".to_owned(),
    };
    format!("{}: {} -> {}", field.field, text(&field.from), text(&field.to))
}

/// The fields of a definition that differ between two views of the server.
pub fn fields(from: &View, to: &View) -> Vec<FieldDiff> {
    let given = |view: &View, field: &str| view.get(field).filter(|value| value.get() != "null").cloned();
    let of = |field: &'static str| {
        let (from, to) = (given(from, field), given(to, field));
        let is_same = from.as_ref().map(|value| value.get()) == to.as_ref().map(|value| value.get());
        (!is_same).then_some(FieldDiff { field, from, to })
    };
    FIELDS.into_iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(text: &str) -> View {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_conflict_tells_what_has_made_the_schedule() {
        let told = |source: &str| Conflict { name: "a".into(), source: source.into() }.told();
        assert_eq!(told("file:b"), "a: its source is file:b");
        assert!(told("").contains("umbel schedule create"));
        let diff = Diff { conflicts: vec![Conflict { name: "a".into(), source: String::new() }], ..Diff::default() };
        assert!(!diff.is_empty());
    }

    #[test]
    fn a_difference_names_fields_of_the_definition_with_old_and_new_values() {
        let old = view(
            r#"{"name": "a", "when": {"every":"5m"}, "zone": "UTC", "overlap": null, "next_at": "x", "start": {"args":[10000000000000000001]}}"#,
        );
        let new = view(
            r#"{"name": "a", "when": {"every":"6m"}, "overlap": "skip", "next_at": "y", "start": {"args":[10000000000000000002]}}"#,
        );
        let told: Vec<String> = fields(&old, &new).iter().map(told).collect();
        let expected = [
            r#"when: {"every":"5m"} -> {"every":"6m"}"#,
            r#"zone: "UTC" -> not given"#,
            r#"start: {"args":[10000000000000000001]} -> {"args":[10000000000000000002]}"#,
            r#"overlap: not given -> "skip""#,
        ];
        assert_eq!(told, expected);
        assert!(fields(&old, &old).is_empty());
        let odd = view("{\"description\": \"\u{202e}\"}");
        assert!(self::told(&fields(&view("{}"), &odd)[0]).ends_with(r#""\u202e""#));
    }
}
