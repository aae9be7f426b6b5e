//! `umbel task`.

use serde_json::{Value, json};
use umbel_client::{ControlPatch, Request, typed};
use umbel_model::TaskName;

use super::{Context, TASK, arguments, control, module};
use crate::args::{Format, TaskVerb};
use crate::output::{table_of, text_at};
use crate::{Result, safe_text::escaped};

pub async fn run(ctx: &Context, verb: TaskVerb) -> Result {
    let client = &ctx.client;
    let path = |name: &TaskName| format!("/v1/tasks/{name}");
    let (request, name) = match verb {
        TaskVerb::List(page) => return ctx.list("/v1/tasks", &[], &page, "NAME, DIGEST, VERSION, DESCRIPTION").await,
        TaskVerb::Show { name } => (client.get(path(&name)), name),
        TaskVerb::Deploy { name, digest } => {
            (client.post(format!("/v1/tasks/{name}/deploy")).json(&json!({ "digest": digest.to_string() })), name)
        }
        TaskVerb::Rollback { name } => return roll_back(ctx, &name).await,
        TaskVerb::Delete { name } => {
            ctx.about(TASK, name.as_str(), client.delete(path(&name)).text().await).await?;
            return ctx.terminal.line(name.as_str());
        }
        TaskVerb::Set { name, fields } => {
            let patch = arguments::policy(&fields)?;
            let found = client.get(path(&name)).text().await;
            let task: Value = typed(&ctx.about(TASK, name.as_str(), found).await?)?;
            let version = format!("\"{}\"", text_at(&task, "/version"));
            (client.patch(path(&name)).header("if-match", version).json(&json!({ "policy": patch })), name)
        }
        TaskVerb::Pause { name } => set_control(ctx, name, &ControlPatch::default().paused(true)).await?,
        TaskVerb::Resume { name } => set_control(ctx, name, &ControlPatch::default().paused(false)).await?,
        TaskVerb::Limit { name, limits } => set_control(ctx, name, &control::asked(limits.patch())?).await?,
    };
    show(ctx, &ctx.about(TASK, name.as_str(), request.text().await).await?)
}

/// Points one task back, and says what that leaves where it was.
async fn roll_back(ctx: &Context, name: &TaskName) -> Result {
    let sent = ctx.client.post(format!("/v1/tasks/{name}/rollback")).text().await;
    let body = ctx.about(TASK, name.as_str(), sent).await?;
    let task: Value = typed(&body)?;
    let left = module::short(&text_at(&task, "/deploys/0/digest"));
    ctx.terminal.note(&format!(
        "only `{name}` was moved; `umbel module rollback {left}` moves all other tasks of that module, too"
    ));
    show(ctx, &body)
}

/// Changes what holds for all jobs of a task, and returns the request that reads the task as it is then.
async fn set_control(ctx: &Context, name: TaskName, patch: &ControlPatch) -> Result<(Request, TaskName)> {
    let request = ctx.client.patch(format!("/v1/tasks/{name}/control")).json(patch).repeatable();
    ctx.about(TASK, name.as_str(), request.text().await).await?;
    Ok((ctx.client.get(format!("/v1/tasks/{name}")), name))
}

fn show(ctx: &Context, body: &str) -> Result {
    let terminal = &ctx.terminal;
    terminal.object(body, "name, description, digest, version")?;
    if terminal.format != Format::Table {
        return Ok(());
    }
    let task: Value = typed(body)?;
    let limits = control::text(&task);
    if !limits.is_empty() {
        terminal.line(&format!("\nheld at run time: {limits}"))?;
    }
    if let Some(parameters) = task["parameters"].as_array().filter(|parameters| !parameters.is_empty()) {
        let rows = parameters.iter().map(|p| {
            let default = p.get("default").map(|default| format!("= {}", escaped(&default.to_string())));
            vec![text_at(p, "/name"), text_at(p, "/schema/type"), default.unwrap_or_else(|| "required".to_owned())]
        });
        terminal.line(&format!("\n{}", table_of(&["PARAMETER", "TYPE", "DEFAULT"], rows)))?;
    }
    if let Some(policy) = task["policy"].as_object() {
        let rows = policy.iter().map(|(name, of)| vec![name.clone(), text_at(of, "/value"), text_at(of, "/from")]);
        terminal.line(&format!("\n{}", table_of(&["POLICY", "VALUE", "FROM"], rows)))?;
    }
    Ok(())
}
