//! `umbel config`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};
use umbel_client::typed;

use super::Context;
use crate::{
    Exit, Failure, Result,
    args::{ConfigScope, ConfigVerb, Format},
    safe_text::escaped,
};

/// What a server answers.
#[derive(Debug, Deserialize)]
struct Config {
    values: BTreeMap<String, String>,
    #[serde(default)]
    inherited: BTreeMap<String, String>,
}

pub async fn run(ctx: &Context, verb: ConfigVerb) -> Result {
    let path = |of: &ConfigScope| match &of.task {
        Some(task) => format!("/v1/tasks/{task}/config"),
        None => "/v1/config".to_owned(),
    };
    let (of, changes) = match verb {
        ConfigVerb::List { of } => return show(ctx, &ctx.client.get(path(&of)).text().await?),
        ConfigVerb::Get { name, of } => {
            let config: Config = typed(&ctx.client.get(path(&of)).text().await?)?;
            let found = config.values.get(name.as_str()).or_else(|| config.inherited.get(name.as_str()));
            let missing = || Failure::new("config_not_found", format!("there is no value {name}")).exit(Exit::NotFound);
            let value = found.ok_or_else(missing)?;
            return match ctx.terminal.format {
                Format::Json | Format::Jsonl => ctx.terminal.line(&json!({ "name": name, "value": value }).to_string()),
                Format::Table | Format::Id => ctx.terminal.line(&escaped(value)),
            };
        }
        ConfigVerb::Set { values, of } => {
            let set = values.into_iter().map(|(name, value)| (name.to_string(), Value::from(value)));
            (of, set.collect::<serde_json::Map<_, _>>())
        }
        ConfigVerb::Unset { names, of } => {
            (of, names.into_iter().map(|name| (name.to_string(), Value::Null)).collect())
        }
    };
    let request = ctx.client.patch(path(&of)).json(&json!({ "values": changes })).repeatable();
    show(ctx, &request.text().await?)
}

/// One value a line, as `umbel config set` takes it.
fn show(ctx: &Context, answer: &str) -> Result {
    let config: Config = typed(answer)?;
    match ctx.terminal.format {
        Format::Json | Format::Jsonl => ctx.terminal.line(answer),
        Format::Id => config.values.keys().chain(config.inherited.keys()).try_for_each(|name| ctx.terminal.line(name)),
        Format::Table => {
            for (name, value) in &config.values {
                ctx.terminal.line(&escaped(&format!("{name}={value}")))?;
            }
            for (name, value) in &config.inherited {
                ctx.terminal.line(&escaped(&format!("{name}={value}  (of all tasks)")))?;
            }
            Ok(())
        }
    }
}
