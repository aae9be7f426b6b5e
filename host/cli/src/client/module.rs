//! `umbel module`.

use std::path::Path;

use bytes::Bytes;
use serde_json::{Value, value::RawValue};

use super::Context;
use crate::args::{Format, ModuleVerb};
use crate::{Failure, Result, output::bytes_text};

pub async fn run(ctx: &Context, verb: ModuleVerb) -> Result {
    match verb {
        ModuleVerb::Push { file, no_deploy } => push(ctx, &file, !no_deploy).await,
        ModuleVerb::List(page) => {
            let mut modules = ctx.pages("/v1/modules", &[], &page).await?;
            for item in &mut modules.items {
                if let Ok(raw) = RawValue::from_string(with_task_names(item.get())) {
                    *item = raw;
                }
            }
            ctx.terminal.list(&modules, "DIGEST, SIZE = size_bytes, TASKS, IMPORTS")
        }
        ModuleVerb::Show { digest } => show(ctx, &ctx.client.get(format!("/v1/modules/{digest}")).text().await?),
    }
}

async fn push(ctx: &Context, file: &Path, deploy: bool) -> Result {
    let bytes = std::fs::read(file).map_err(|error| Failure::file(file.display(), &error))?;
    let size = bytes.len() as u64;
    let bar = ctx.terminal.bytes_bar(size, "uploading");
    let body = ctx.client.push(Bytes::from(bytes), deploy, move |sent| bar.inc(sent)).await?;
    ctx.terminal.note(&format!("pushed {} ({})", file.display(), bytes_text(size)));
    show(ctx, &body)
}

/// A module; for people with its tasks as names.
fn show(ctx: &Context, body: &str) -> Result {
    let fields = "digest, size = size_bytes, core module, imports, tasks, warnings";
    match ctx.terminal.format {
        Format::Table => ctx.terminal.object(&with_task_names(body), fields),
        _ => ctx.terminal.object(body, fields),
    }
}

/// Tasks as their names, where they are whole descriptions.
fn with_task_names(body: &str) -> String {
    let Ok(mut module) = serde_json::from_str::<Value>(body) else { return body.to_owned() };
    for task in module.get_mut("tasks").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(name) = task.get("name").cloned() {
            *task = name;
        }
    }
    module.to_string()
}
