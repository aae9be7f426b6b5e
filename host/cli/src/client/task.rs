//! `umbel task`.

use serde_json::{Map, Value, json};
use umbel_client::{Client, Error};

use crate::{
    args::{PageFlags, TaskVerb},
    client::{answer, pages},
    failure::{Exit, Failure},
    output::{Column, Terminal, escaped, table_of, text_at},
    suggest::nearest,
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
            return show(&suggested(client, name.as_str(), body).await?, terminal);
        }
        TaskVerb::Deploy { name, digest } => {
            let request = client.post(format!("/v1/tasks/{name}/deploy"));
            let sent = request.json(&json!({ "digest": digest.to_string() })).text().await;
            suggested(client, name.as_str(), sent).await?
        }
        TaskVerb::Rollback { name } => {
            let sent = client.post(format!("/v1/tasks/{name}/rollback")).text().await;
            suggested(client, name.as_str(), sent).await?
        }
        TaskVerb::Set { name, fields } => {
            let patch = patch(&fields)?;
            let found = client.get(format!("/v1/tasks/{name}")).text().await;
            let task: Value = answer(&suggested(client, name.as_str(), found).await?)?;
            let request = client
                .patch(format!("/v1/tasks/{name}"))
                .header("if-match", format!("\"{}\"", text_at(&task, "/version")))
                .json(&json!({ "policy": patch }));
            request.text().await?
        }
    };
    show(&changed, terminal)
}

/// Adds the name that was probably meant to a failure about an unknown task.
pub async fn suggested(client: &Client, name: &str, sent: Result<String, Error>) -> Result<String, Failure> {
    let failure = match sent.map_err(Failure::from) {
        Err(failure) if failure.code == "task_not_found" => failure,
        other => return other,
    };
    let flags = PageFlags { limit: 1_000, cursor: None };
    let names: Vec<String> = match pages(client, "/v1/tasks", &[], &flags).await {
        Ok(page) => page
            .items
            .iter()
            .filter_map(|item| serde_json::from_str::<Value>(item.get()).ok())
            .map(|task| text_at(&task, "/name"))
            .collect(),
        Err(_) => return Err(failure),
    };
    Err(match nearest(name, names.iter().map(String::as_str)) {
        Some(near) => failure.help(format!("a task with a similar name exists: {near}")),
        None if names.is_empty() => failure.help("no task is deployed: umbel module push FILE"),
        None => failure.help("umbel task list shows the tasks"),
    })
    .map_err(|failure: Failure| failure.exit(Exit::NotFound))
}

/// `FIELD=VALUE` as a patch of a policy. Durations and sizes may have units.
fn patch(fields: &[String]) -> Result<Map<String, Value>, Failure> {
    let mut patch = Map::new();
    for field in fields {
        let Some((name, text)) = field.split_once('=') else {
            return Err(Failure::usage(format!("{field:?} is not FIELD=VALUE")).help("write max_retries=5"));
        };
        let units = match name {
            _ if name.ends_with("_ms") => umbel_model::human::duration_ms(text).ok(),
            _ if name.ends_with("_bytes") => umbel_model::human::size_bytes(text).ok(),
            _ => None,
        };
        let value = units.map(Value::from);
        let value = value.or_else(|| serde_json::from_str(text).ok()).unwrap_or_else(|| Value::from(text));
        patch.insert(name.to_owned(), value);
    }
    Ok(patch)
}

fn show(body: &str, terminal: &Terminal) -> Result<(), Failure> {
    let rows: &[Column] =
        &[("name", "/name"), ("description", "/description"), ("digest", "/digest"), ("version", "/version")];
    terminal.object(body, rows, "/name")?;
    if terminal.format != crate::args::Format::Table {
        return Ok(());
    }
    let task: Value = answer(body)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_fields_take_units_json_or_text() {
        let fields = ["time_limit_ms=30s", "memory_bytes=64MiB", "max_retries=5", "queue=slow", "fuel=null"];
        let patch = patch(&fields.map(str::to_owned)).unwrap();
        let expected =
            json!({"time_limit_ms": 30_000, "memory_bytes": 64 << 20, "max_retries": 5, "queue": "slow", "fuel": null});
        assert_eq!(Value::Object(patch), expected);
    }
}
