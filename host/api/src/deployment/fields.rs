//! What one description of a task says otherwise than another.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Map, Value};
use umbel_model::{Parameter, PolicyPatch, TaskDescription};
use utoipa::ToSchema;

/// How a field differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FieldChangeKind {
    Added,
    Removed,
    Changed,
}

/// A part of a task's description that differs from the one before.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct FieldChange {
    /// `description`, `returns`, `parameters` (their order), `parameters.NAME` or `policy.FIELD`.
    pub(crate) field: String,
    pub(crate) change: FieldChangeKind,
    /// Of a field of the policy: what the code said before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<Value>,
    /// Of a field of the policy: what the code says now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) to: Option<Value>,
}

impl FieldChange {
    fn new(field: impl Into<String>, change: FieldChangeKind) -> Self {
        Self { field: field.into(), change, from: None, to: None }
    }
}

/// The kind of a change from something to something; none when both are equal.
fn kind<T: PartialEq>(before: Option<&T>, after: Option<&T>) -> Option<FieldChangeKind> {
    match (before, after) {
        _ if before == after => None,
        (None, _) => Some(FieldChangeKind::Added),
        (_, None) => Some(FieldChangeKind::Removed),
        _ => Some(FieldChangeKind::Changed),
    }
}

/// Parameters first, then the policy, then the rest.
pub(crate) fn changed_fields(before: &TaskDescription, after: &TaskDescription) -> Vec<FieldChange> {
    let mut changes = changed_parameters(&before.parameters, &after.parameters);
    changes.extend(changed_policy(&before.policy, &after.policy));
    changes.extend(kind(before.returns.as_ref(), after.returns.as_ref()).map(|kind| FieldChange::new("returns", kind)));
    if before.description != after.description {
        changes.push(FieldChange::new("description", FieldChangeKind::Changed));
    }
    changes
}

fn changed_parameters(before: &[Parameter], after: &[Parameter]) -> Vec<FieldChange> {
    let named = |list: &'_ [Parameter], name: &str| list.iter().find(|p| p.name == name).cloned();
    let all: BTreeSet<&str> = before.iter().chain(after).map(|p| p.name.as_str()).collect();
    let mut changes: Vec<FieldChange> = all
        .iter()
        .filter_map(|name| {
            let kind = kind(named(before, name).as_ref(), named(after, name).as_ref())?;
            Some(FieldChange::new(format!("parameters.{name}"), kind))
        })
        .collect();
    // Positional arguments: those that both have must stand in the same order.
    let order = |list: &'_ [Parameter], other: &[Parameter]| -> Vec<String> {
        list.iter().filter(|p| other.iter().any(|o| o.name == p.name)).map(|p| p.name.clone()).collect()
    };
    if order(before, after) != order(after, before) {
        changes.push(FieldChange::new("parameters", FieldChangeKind::Changed));
    }
    changes
}

fn changed_policy(before: &PolicyPatch, after: &PolicyPatch) -> Vec<FieldChange> {
    let (before, after) = (fields(before), fields(after));
    let all: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let changed = all.into_iter().filter_map(|name| {
        let (from, to) = (before.get(name), after.get(name));
        let change = kind(from, to)?;
        Some(FieldChange { field: format!("policy.{name}"), change, from: from.cloned(), to: to.cloned() })
    });
    changed.collect()
}

fn fields(policy: &PolicyPatch) -> Map<String, Value> {
    match serde_json::to_value(policy) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn task(value: Value) -> TaskDescription {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_a_description_says_otherwise_is_named_field_by_field() {
        let p = |name: &str, kind: &str| json!({"name": name, "schema": {"type": kind}});
        let before = task(json!({
            "name": "t", "description": "one", "returns": {"type": "string"}, "policy": {"max_retries": 3, "fuel": 7},
            "parameters": [p("a", "integer"), p("b", "integer"), p("c", "integer")],
        }));
        let after = task(json!({
            "name": "t", "description": "two", "policy": {"max_retries": 5, "queue": "slow"},
            "parameters": [p("b", "integer"), p("a", "string"), p("d", "integer")],
        }));
        let found: Vec<String> = changed_fields(&before, &after)
            .iter()
            .map(|change| format!("{} {:?} {:?} {:?}", change.field, change.change, change.from, change.to))
            .collect();
        assert_eq!(
            found,
            [
                "parameters.a Changed None None",
                "parameters.c Removed None None",
                "parameters.d Added None None",
                "parameters Changed None None",
                "policy.fuel Removed Some(Number(7)) None",
                "policy.max_retries Changed Some(Number(3)) Some(Number(5))",
                "policy.queue Added None Some(String(\"slow\"))",
                "returns Removed None None",
                "description Changed None None",
            ]
        );
        assert_eq!(changed_fields(&before, &before), []);
    }
}
