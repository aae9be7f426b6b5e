//! `umbel module`.

use std::path::Path;

use bytes::Bytes;
use umbel_client::Client;

use crate::{
    args::ModuleVerb,
    client::pages,
    failure::{Exit, Failure},
    output::{Column, Terminal, bytes_text},
};

const COLUMNS: &[Column] =
    &[("DIGEST", "/digest"), ("SIZE", "/size_bytes"), ("TASKS", "/tasks"), ("IMPORTS", "/imports")];

pub async fn run(client: &Client, verb: ModuleVerb, terminal: &Terminal) -> Result<(), Failure> {
    match verb {
        ModuleVerb::Push { file, no_deploy } => push(client, &file, !no_deploy, terminal).await,
        ModuleVerb::List(page) => {
            let modules = pages(client, "/v1/modules", &[], &page).await?;
            terminal.list(&simple(modules), COLUMNS, "/digest")
        }
        ModuleVerb::Show { digest } => {
            let body = client.get(format!("/v1/modules/{digest}")).text().await?;
            show(&body, terminal)
        }
    }
}

async fn push(client: &Client, file: &Path, deploy: bool, terminal: &Terminal) -> Result<(), Failure> {
    let bytes = std::fs::read(file).map_err(|error| {
        let exit = if error.kind() == std::io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Failure };
        Failure::new("file", format!("{} cannot be read: {error}", file.display())).exit(exit)
    })?;
    let size = bytes.len() as u64;
    let bar = terminal.bytes_bar(size, "uploading");
    let body = client.push(Bytes::from(bytes), deploy, move |sent| bar.advance(sent)).await?;
    terminal.note(&format!("pushed {} ({})", file.display(), bytes_text(size)));
    show(&body, terminal)
}

/// A module, its tasks as names.
fn show(body: &str, terminal: &Terminal) -> Result<(), Failure> {
    let rows: &[Column] = &[
        ("digest", "/digest"),
        ("size", "/size_bytes"),
        ("core module", "/core_module"),
        ("imports", "/imports"),
        ("tasks", "/tasks"),
        ("warnings", "/warnings"),
    ];
    if terminal.format != crate::args::Format::Table {
        return terminal.object(body, rows, "/digest");
    }
    terminal.object(&with_task_names(body), rows, "/digest")
}

fn simple(mut page: crate::output::Page) -> crate::output::Page {
    for item in &mut page.items {
        if let Ok(raw) = serde_json::value::RawValue::from_string(with_task_names(item.get())) {
            *item = raw;
        }
    }
    page
}

/// Tasks as their names, where they are whole descriptions.
fn with_task_names(body: &str) -> String {
    let Ok(mut module) = serde_json::from_str::<serde_json::Value>(body) else { return body.to_owned() };
    if let Some(tasks) = module.get_mut("tasks").and_then(|tasks| tasks.as_array_mut()) {
        for task in tasks {
            if let Some(name) = task.get("name").cloned() {
                *task = name;
            }
        }
    }
    module.to_string()
}
