//! `umbel module`.

use std::path::Path;

use bytes::Bytes;

use super::Context;
use crate::{Failure, Result, args::ModuleVerb, output::bytes_text};

const FIELDS: &str = "digest, size = size_bytes, core module, imports, tasks, warnings";

pub async fn run(ctx: &Context, verb: ModuleVerb) -> Result {
    match verb {
        ModuleVerb::Push { file, no_deploy } => push(ctx, &file, !no_deploy).await,
        ModuleVerb::List(page) => {
            ctx.list("/v1/modules", &[], &page, "DIGEST, SIZE = size_bytes, TASKS, IMPORTS").await
        }
        ModuleVerb::Show { digest } => ctx.show(ctx.client.get(format!("/v1/modules/{digest}")), FIELDS).await,
    }
}

async fn push(ctx: &Context, file: &Path, deploy: bool) -> Result {
    let bytes = std::fs::read(file).map_err(|error| Failure::file(file.display(), &error))?;
    let size = bytes.len() as u64;
    let bar = ctx.terminal.bytes_bar(size, "uploading");
    let body = ctx.client.push(Bytes::from(bytes), deploy, move |sent| bar.inc(sent)).await?;
    ctx.terminal.note(&format!("pushed {} ({})", file.display(), bytes_text(size)));
    ctx.terminal.object(&body, FIELDS)
}
