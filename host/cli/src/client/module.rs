//! `umbel module`.

use std::path::Path;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use umbel_client::{
    Approval, FieldChange, Module, ModuleRollback, PermissionChange, PushOptions, TaskChange, TaskMove, typed,
};
use umbel_model::DigestPrefix;

use super::Context;
use crate::{
    Failure, Result,
    args::{Format, ModuleVerb},
    output::{bytes_text, table_of},
    safe_text::{escaped, one_line},
};

/// Digits of a digest in tables.
const SHORT_DIGITS: usize = 12;
const FIELDS: &str = "digest, size = size_bytes, core module, imports, tasks, pure = manifest/pure, touches = manifest/capabilities, \
                      asks for = manifest/permissions, tasks ask for = manifest/tasks, approval = approval/state, deleted = deleted_at, \
                      warnings";
const MANIFEST: &str = "digest, pure = manifest/pure, touches = manifest/capabilities, asks for = manifest/permissions, \
                        tasks ask for = manifest/tasks, approval = approval/state, by = approval/by, at = approval/at, \
                        inherited from = approval/inherited_from, not approved = approval/missing, to approve = approval/command";

pub async fn run(ctx: &Context, verb: ModuleVerb) -> Result {
    match verb {
        ModuleVerb::Push { file, no_deploy, take_over, dry_run } => {
            push(ctx, &file, PushOptions { deploy: !no_deploy, take_over, dry_run }).await
        }
        ModuleVerb::List(page) => {
            ctx.list("/v1/modules", &[], &page, "DIGEST, SIZE = size_bytes, TASKS, IMPORTS, DELETED = deleted_at").await
        }
        ModuleVerb::Delete { digest } => {
            ctx.client.delete(format!("/v1/modules/{digest}")).text().await?;
            ctx.terminal.line(&digest.to_string())
        }
        ModuleVerb::Manifest { digest } => {
            ctx.show(ctx.client.get(format!("/v1/modules/{digest}/manifest")), MANIFEST).await
        }
        ModuleVerb::Approve { digest } => {
            let body = ctx.client.post(format!("/v1/modules/{digest}/approve")).repeatable().text().await?;
            ctx.terminal.object(&body, MANIFEST)?;
            show_changes(ctx, &body)
        }
        ModuleVerb::Revoke { digest } => {
            ctx.client.delete(format!("/v1/modules/{digest}/approval")).text().await?;
            ctx.terminal.note("its tasks stay deployed; their next calls are denied, at most a second from now");
            ctx.terminal.line(&digest.to_string())
        }
        ModuleVerb::Rollback { digest } => roll_back(ctx, &digest).await,
        ModuleVerb::Show { digest } => ctx.show(ctx.client.get(format!("/v1/modules/{digest}")), FIELDS).await,
    }
}

async fn push(ctx: &Context, file: &Path, how: PushOptions) -> Result {
    let bytes = std::fs::read(file).map_err(|error| Failure::file(file.display(), &error))?;
    let size = bytes.len() as u64;
    let bar = ctx.terminal.bytes_bar(size, "uploading");
    let body = ctx.client.push(Bytes::from(bytes), how, move |sent| bar.inc(sent)).await?;
    let done = if how.dry_run { "checked, nothing is stored:" } else { "pushed" };
    ctx.terminal.note(&format!("{done} {} ({})", file.display(), bytes_text(size)));
    ctx.terminal.object(&body, FIELDS)?;
    let module: Module = typed(&body)?;
    if ctx.terminal.format == Format::Table && !module.permission_changes.is_empty() {
        ctx.terminal.line(&format!("\n{}", permission_lines(&module.permission_changes).join("\n")))?;
    }
    show_changes(ctx, &body)?;
    if let Some(note) = module.approval.as_ref().and_then(approval_note) {
        ctx.terminal.note(&note);
    }
    Ok(())
}

/// What a push asks for otherwise than the version that is deployed: `+ kv cursors`, `- blob (task import)`.
fn permission_lines(changes: &[PermissionChange]) -> Vec<String> {
    let line = |change: &PermissionChange| {
        let sign = if change.added { '+' } else { '-' };
        let task = change.task.as_deref().map(|task| format!(" (task {})", one_line(task))).unwrap_or_default();
        format!("{sign} {}{task}", one_line(&change.permission))
    };
    changes.iter().map(line).collect()
}

/// What is to be said about the approval of a pushed module.
fn approval_note(approval: &Approval) -> Option<String> {
    let by = approval.by.as_deref().map(one_line).unwrap_or_default();
    match &*approval.state {
        "waits" => {
            let command = approval.command.as_deref().map(one_line).unwrap_or_default();
            Some(format!("its tasks are not deployed before somebody approves what it asks for:\n  {command}"))
        }
        "approved" => match &approval.inherited_from {
            Some(digest) => Some(format!("it asks for no more than {} was approved for, by {by}", short(digest))),
            None => Some(format!("what it asks for was approved by {by}")),
        },
        _ => None,
    }
}

async fn roll_back(ctx: &Context, digest: &DigestPrefix) -> Result {
    let body = ctx.client.post(format!("/v1/modules/{digest}/rollback")).text().await?;
    let told: ModuleRollback = typed(&body)?;
    if ctx.terminal.format != Format::Table {
        return ctx.terminal.object(&body, "digest");
    }
    let state = |task: &TaskMove| if task.moved { "rolled back" } else { "stays" }.to_owned();
    let row = |task: &TaskMove| {
        let detail = task.detail.as_deref().map(one_line).unwrap_or_default();
        vec![one_line(&task.task), state(task), short(&task.digest), detail]
    };
    let moved = told.tasks.iter().filter(|task| task.moved).count();
    ctx.terminal.note(&format!("{moved} of {} tasks of {} were rolled back", told.tasks.len(), short(&told.digest)));
    ctx.terminal.line(&table_of(&["TASK", "CHANGE", "MODULE NOW", "WHY"], told.tasks.iter().map(row)))
}

/// What happened to each task, in a table below the module.
fn show_changes(ctx: &Context, body: &str) -> Result {
    #[derive(Deserialize)]
    struct Told {
        #[serde(default)]
        changes: Vec<TaskChange>,
    }
    let Told { changes } = typed(body)?;
    if ctx.terminal.format != Format::Table || changes.is_empty() {
        return Ok(());
    }
    let row = |change: &TaskChange| {
        let before = change.from.as_deref().map(short).unwrap_or_default();
        vec![one_line(&change.task), one_line(&change.change).replace('_', " "), before, what(change)]
    };
    let rows = changes.iter().map(row);
    ctx.terminal.line(&format!("\n{}", table_of(&["TASK", "CHANGE", "MODULE BEFORE", "WHAT"], rows)))
}

/// The first digits of a digest: enough to name the module.
pub fn short(digest: &str) -> String {
    one_line(&digest.chars().take("sha256:".len() + SHORT_DIGITS).collect::<String>())
}

fn what(change: &TaskChange) -> String {
    if let Some(detail) = &change.detail {
        return one_line(detail);
    }
    let fields: Vec<String> = change.fields.iter().map(field).collect();
    match &*change.change {
        "updated" | "taken_over" if fields.is_empty() => "other code".to_owned(),
        _ => fields.join(", "),
    }
}

fn field(FieldChange { field, change, from, to, .. }: &FieldChange) -> String {
    let text = |value: &Value| escaped(&value.to_string()).into_owned();
    let field = one_line(field);
    match (from, to) {
        (Some(from), Some(to)) => format!("{field} {} -> {}", text(from), text(to)),
        (Some(from), None) => format!("{field} {} removed", text(from)),
        (None, Some(to)) => format!("{field} = {}", text(to)),
        (None, None) => format!("{field} {}", one_line(change)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_push_asks_for_is_told_line_by_line_and_who_must_approve_it() {
        let changes = json!([
            {"added": true, "permission": "http GET https://a/"},
            {"added": false, "permission": "blob\u{1b}", "task": "import"},
        ]);
        let lines = permission_lines(&serde_json::from_value::<Vec<PermissionChange>>(changes).unwrap());
        assert_eq!(lines[0], "+ http GET https://a/");
        assert!(lines[1].starts_with("- blob") && lines[1].ends_with("(task import)") && !lines[1].contains('\u{1b}'));
        let note = |approval: Value| approval_note(&serde_json::from_value(approval).unwrap());
        let waits = note(json!({"state": "waits", "missing": ["kv a"], "command": "umbel module approve sha256:0"}));
        assert!(waits.unwrap().ends_with("\n  umbel module approve sha256:0"));
        assert!(note(json!({"state": "approved", "by": "umbel dev"})).unwrap().contains("by umbel dev"));
        assert_eq!(note(json!({"state": "not_needed"})), None);
    }

    #[test]
    fn a_change_is_told_in_one_line_and_without_control_characters() {
        let told = |change: Value| what(&serde_json::from_value(change).unwrap());
        let fields = json!([
            {"field": "parameters.y", "change": "added"},
            {"field": "policy.fuel", "change": "changed", "from": 1, "to": 2},
            {"field": "policy.queue", "change": "added", "to": "a\u{1b}[31m"},
            {"field": "policy.priority", "change": "removed", "from": 3},
        ]);
        let text = told(json!({"task": "t", "change": "updated", "fields": fields}));
        assert!(text.starts_with("parameters.y added, policy.fuel 1 -> 2, policy.queue = \"a"), "{text}");
        assert!(text.ends_with("policy.priority 3 removed") && !text.contains('\u{1b}'), "{text}");
        assert_eq!(told(json!({"task": "t", "change": "updated", "fields": []})), "other code");
        assert_eq!(told(json!({"task": "t", "change": "not_in_module", "detail": "it stays"})), "it stays");
    }
}
