//! `umbel backup`: a copy of the SQLite broker while a process uses it.

use serde::Serialize;

use super::{broker, broker::BrokerUrl};
use crate::{
    Failure, Result,
    args::{BackupOptions, Format},
    output::{Terminal, bytes_text, coloured, unwritten},
};

#[derive(Debug, Serialize)]
struct Report {
    file: String,
    bytes: u64,
}

pub async fn run(options: BackupOptions, terminal: &Terminal) -> Result {
    let (_, url) = broker::locate(&options.broker)?;
    let BrokerUrl::Sqlite(path) = url else {
        return Err(Failure::usage("umbel backup copies a SQLite broker, and this one is on Redis")
            .help("docs/guides/production.md says how a Redis is backed up"));
    };
    if !path.exists() {
        return Err(broker::missing(&BrokerUrl::Sqlite(path)));
    }
    let copying = terminal.spinner("copying the broker");
    umbel_broker_sqlite::backup(&path, &options.file)?;
    drop(copying);
    let bytes = options.file.metadata().map_or(0, |metadata| metadata.len());
    let report = Report { file: options.file.display().to_string(), bytes };
    match terminal.format {
        Format::Json => terminal.line(&serde_json::to_string(&report).map_err(unwritten)?),
        _ => terminal.line(&format!("{}: {}", coloured(&report.file), bytes_text(bytes))),
    }
}
