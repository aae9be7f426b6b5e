//! `umbel task`.

use serde_json::{Value, json};
use umbel_client::{Client, ControlPatch};
use umbel_model::TaskName;

use crate::{
    args::TaskVerb,
    client::{
        answer, arguments, control, pages,
        suggested::{TASKS, suggested},
    },
    failure::Failure,
    output::{Column, Terminal, table_of, text_at},
    safe_text::escaped,
};

const COLUMNS: &[Column] =
    &[("NAME", "/name"), ("DIGEST", "/digest"), ("VERSION", "/version"), ("DESCRIPTION", "/description")];

pub async fn run(client: &Client, verb: TaskVerb, terminal: &Terminal) -> Result<(), Failure> {
    let changed = match verb {
        TaskVerb::List(page) => {
            return terminal.list(&pages(client, "/v1/tasks", &[], &page).await?, COLUMNS, "/name");
        }
        TaskVerb::Show { name } => {
            let body = client.get(format!("/v1/tasks/{name}")).text().await;
            return show(&suggested(client, TASKS, name.as_str(), body).await?, terminal);
        }
        TaskVerb::Deploy { name, digest } => {
            let request = client.post(format!("/v1/tasks/{name}/deploy"));
            let sent = request.json(&json!({ "digest": digest.to_string() })).text().await;
            suggested(client, TASKS, name.as_str(), sent).await?
        }
        TaskVerb::Rollback { name } => {
            let sent = client.post(format!("/v1/tasks/{name}/rollback")).text().await;
            suggested(client, TASKS, name.as_str(), sent).await?
        }
        TaskVerb::Set { name, fields } => {
            let patch = arguments::policy(&fields)?;
            let found = client.get(format!("/v1/tasks/{name}")).text().await;
            let task: Value = answer(&suggested(client, TASKS, name.as_str(), found).await?)?;
            let request = client
                .patch(format!("/v1/tasks/{name}"))
                .header("if-match", format!("\"{}\"", text_at(&task, "/version")))
                .json(&json!({ "policy": patch }));
            request.text().await?
        }
        TaskVerb::Pause { name } => set_control(client, &name, &ControlPatch::default().paused(true)).await?,
        TaskVerb::Resume { name } => set_control(client, &name, &ControlPatch::default().paused(false)).await?,
        TaskVerb::Limit { name, limits } => set_control(client, &name, &control::asked(limits.patch())?).await?,
    };
    show(&changed, terminal)
}

/// Changes what holds for all jobs of a task; the task as it is then.
async fn set_control(client: &Client, name: &TaskName, patch: &ControlPatch) -> Result<String, Failure> {
    let request = client.patch(format!("/v1/tasks/{name}/control")).json(patch).repeatable();
    suggested(client, TASKS, name.as_str(), request.text().await).await?;
    Ok(client.get(format!("/v1/tasks/{name}")).text().await?)
}

fn show(body: &str, terminal: &Terminal) -> Result<(), Failure> {
    let rows: &[Column] =
        &[("name", "/name"), ("description", "/description"), ("digest", "/digest"), ("version", "/version")];
    terminal.object(body, rows, "/name")?;
    if terminal.format != crate::args::Format::Table {
        return Ok(());
    }
    let task: Value = answer(body)?;
    let limits = control::text(&task);
    if !limits.is_empty() {
        terminal.line(&format!("\nheld at run time: {limits}"))?;
    }
    let parameters = task.pointer("/parameters").and_then(Value::as_array).cloned().unwrap_or_default();
    if !parameters.is_empty() {
        let rows = parameters.iter().map(|p| {
            let default =
                p.get("default").map_or_else(|| "required".to_owned(), |d| format!("= {}", escaped(&d.to_string())));
            vec![text_at(p, "/name"), text_at(p, "/schema/type"), default]
        });
        terminal.line(&format!("\n{}", table_of(&["PARAMETER", "TYPE", "DEFAULT"], rows)))?;
    }
    if let Some(policy) = task.pointer("/policy").and_then(Value::as_object) {
        let rows = policy.iter().map(|(name, of)| vec![name.clone(), text_at(of, "/value"), text_at(of, "/from")]);
        terminal.line(&format!("\n{}", table_of(&["POLICY", "VALUE", "FROM"], rows)))?;
    }
    Ok(())
}
