//! What a module can touch and asks to reach, and who allowed it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use umbel_compose::{Approval, Granted};
use umbel_model::{Capability as OfImport, Declared, Digest, Manifest, ModuleInfo, Permissions};
use utoipa::ToSchema;

use super::{ApprovalState, Capability};
use crate::{approval_check::line_to_type, approvals::Decision, time::Timestamp};

views! {
    /// What a module can touch, as its imports say, and what it asks to reach, as it declares.
    #[schema(as = Manifest)]
    ManifestView from (manifest: Manifest) {
        /// It can touch nothing: the same arguments give the same result.
        pure: bool = manifest.is_pure(),
        /// What it imports beside logging, progress and what leads nowhere.
        #[schema(value_type = Vec<Capability>)]
        capabilities: Vec<&'static str> = manifest.capabilities.iter().copied().map(OfImport::as_str).collect(),
        /// The permissions that all its tasks ask for, such as `http GET https://api.example.com/`.
        permissions: Vec<String> = texts(&manifest.declared.module),
        /// The permissions that single tasks ask for besides.
        tasks: BTreeMap<String, Vec<String>> =
            manifest.declared.tasks.iter().map(|(task, list)| (task.to_string(), texts(list))).collect(),
    }

    /// Whether a module may reach what it asks for.
    #[schema(as = Approval)]
    ApprovalView from (state: &'static str, granted: Option<&Granted>, waiting: Waiting) {
        #[schema(value_type = ApprovalState)]
        state: &'static str = state,
        /// The name of the token with which it was approved.
        #[serde(skip_serializing_if = "Option::is_none")]
        by: Option<String> = granted.map(|granted| granted.by.clone()),
        #[serde(skip_serializing_if = "Option::is_none")]
        at: Option<Timestamp> = granted.map(|granted| Timestamp(granted.at)),
        /// The version whose approval covers it, if nobody approved it by itself.
        #[serde(skip_serializing_if = "Option::is_none")]
        inherited_from: Option<String> =
            granted.and_then(|granted| granted.inherited_from).map(|digest| digest.to_string()),
        /// The permissions that nobody approved.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        missing: Vec<String> = waiting.missing,
        /// The line that approves it.
        #[serde(skip_serializing_if = "Option::is_none")]
        command: Option<String> = waiting.command,
    }
}

/// What is not approved, and how to approve it.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    missing: Vec<String>,
    command: Option<String>,
}

fn texts(list: &Permissions) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

impl ApprovalView {
    /// As it is stored.
    pub(crate) fn of(info: &ModuleInfo, approval: &Approval) -> Self {
        let missing = approval.missing(info);
        match &approval.granted {
            _ if !info.needs_approval() => Self::new("not_needed", None, Waiting::default()),
            Some(granted) if missing.is_empty() => Self::new("approved", Some(granted), Waiting::default()),
            _ => Self::waits(info.digest, missing.iter().map(ToString::to_string).collect()),
        }
    }

    /// As a push decided.
    pub(crate) fn decided(digest: Digest, decision: &Decision) -> Self {
        match decision {
            Decision::NotNeeded => Self::new("not_needed", None, Waiting::default()),
            Decision::Approved(granted) | Decision::Granted(granted) => {
                Self::new("approved", Some(granted), Waiting::default())
            }
            Decision::Waits(missing) => Self::waits(digest, missing.iter().map(ToString::to_string).collect()),
        }
    }

    fn waits(digest: Digest, missing: Vec<String>) -> Self {
        Self::new("waits", None, Waiting { missing, command: Some(line_to_type(digest)) })
    }
}

/// A permission that a module declares and the version deployed now does not, or the other way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct PermissionChange {
    /// True: it is new. False: it is not asked for any more.
    pub(crate) added: bool,
    pub(crate) permission: String,
    /// The task that asks for it; none: all tasks of the module.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) task: Option<String>,
}

impl PermissionChange {
    /// From what is deployed now to what is pushed: what is new first.
    pub(crate) fn between(before: &Declared, after: &Declared) -> Vec<Self> {
        let (before, after) = (lines(before), lines(after));
        let change = |added: bool| {
            move |(task, permission): &(Option<String>, String)| Self {
                added,
                permission: permission.clone(),
                task: task.clone(),
            }
        };
        let new = after.difference(&before).map(change(true));
        new.chain(before.difference(&after).map(change(false))).collect()
    }
}

fn lines(declared: &Declared) -> BTreeSet<(Option<String>, String)> {
    let of_module = declared.module.iter().map(|permission| (None, permission.to_string()));
    let of_task = |(task, list): (&umbel_model::TaskName, &Permissions)| {
        let task = task.to_string();
        list.iter().map(|permission| (Some(task.clone()), permission.to_string())).collect::<Vec<_>>()
    };
    of_module.chain(declared.tasks.iter().flat_map(of_task)).collect()
}

#[cfg(test)]
mod tests {
    use umbel_model::TaskName;

    use super::*;

    #[test]
    fn what_a_version_asks_for_more_and_less_is_told_with_its_task() {
        let tasks = [TaskName::new("a").unwrap()];
        let declared =
            |given: &[(Option<&'static str>, &'static str)]| Declared::read(given.iter().copied(), &tasks).unwrap();
        let before = declared(&[(None, "kv x"), (Some("a"), "blob")]);
        let after = declared(&[(None, "http GET https://a"), (None, "kv x"), (Some("a"), "secret s")]);
        let told: Vec<String> = PermissionChange::between(&before, &after)
            .iter()
            .map(|c| format!("{}{} {}", if c.added { '+' } else { '-' }, c.permission, c.task.as_deref().unwrap_or("")))
            .collect();
        assert_eq!(told, ["+http GET https://a/ ", "+secret s a", "-blob a"]);
    }
}
