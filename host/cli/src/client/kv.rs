//! `umbel kv`.

use std::{
    fs,
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;
use umbel_client::{KvExpect, KvPut, KvValue, kv_path};
use umbel_model::{BucketName, KvKey};

use super::{Context, confirm, input};
use crate::{
    Exit, Failure, Result,
    args::{ExpectFlags, Format, KvVerb},
    output::{bytes_text, closed},
    safe_text::escaped,
};

/// The largest value that a server may take.
const MAX_VALUE_BYTES: u64 = 1 << 20;
const COLUMNS: &str = "KEY, SIZE = size_bytes, VERSION, EXPIRES = expires_at";

pub async fn run(ctx: &Context, verb: KvVerb) -> Result {
    let Context { client, terminal } = ctx;
    match verb {
        KvVerb::Get { bucket, key } => get(ctx, &bucket, &key).await,
        KvVerb::Set { bucket, key, value, ttl, expect } => {
            let how = KvPut { ttl: ttl.map(Duration::from_millis), expect: expected(&expect) };
            let version = client.kv_put(bucket.as_str(), key.as_str(), read(&value)?, how).await?;
            terminal.brief(&version.to_string(), &json!({ "version": version }).to_string())
        }
        KvVerb::List { bucket, prefix, page } => {
            let prefix = Some(prefix).filter(|prefix| !prefix.is_empty());
            ctx.list(&format!("/v1/kv/{bucket}"), &[("prefix", prefix)], &page, COLUMNS).await
        }
        KvVerb::Rm { bucket, key: Some(key), if_version, .. } => {
            let expect = if_version.map_or(KvExpect::Any, KvExpect::Version);
            match client.kv_delete(bucket.as_str(), key.as_str(), expect).await? {
                true => terminal.line(&escaped(key.as_str())),
                false => Err(no_entry(&bucket, &key)),
            }
        }
        KvVerb::Rm { bucket, key: None, yes, .. } => {
            confirm(yes, &format!("delete all entries of {bucket}?"))?;
            let deleted = client.kv_delete_bucket(bucket.as_str()).await?;
            terminal.brief(&deleted.to_string(), &json!({ "deleted": deleted }).to_string())
        }
        KvVerb::Incr { bucket, key, by } => {
            let request = client.post(format!("{}/increment", kv_path(bucket.as_str(), key.as_str())));
            let body = request.json(&json!({ "by": by })).text().await?;
            let sum: serde_json::Value = umbel_client::typed(&body)?;
            terminal.brief(&sum["value"].to_string(), &body)
        }
        KvVerb::Buckets => ctx.all("/v1/kv", "NAME, ENTRIES").await,
    }
}

fn no_entry(bucket: &BucketName, key: &KvKey) -> Failure {
    Failure::new("entry_not_found", format!("bucket {bucket} has no entry {:?}", key.as_str())).exit(Exit::NotFound)
}

fn expected(flags: &ExpectFlags) -> KvExpect {
    match flags.if_version {
        Some(version) => KvExpect::Version(version),
        None if flags.if_absent => KvExpect::Absent,
        None => KvExpect::Any,
    }
}

/// The value that an argument stands for.
fn read(value: &str) -> Result<Vec<u8>> {
    let (shown, read) = match value.strip_prefix('@') {
        _ if value == "-" => ("stdin".to_owned(), input::bytes("stdin", Ok(io::stdin().lock()), MAX_VALUE_BYTES)?),
        Some(text) if text.starts_with('@') => return Ok(text.into()),
        Some(file) => (file.to_owned(), input::bytes(file, fs::File::open(file), MAX_VALUE_BYTES)?),
        None => return Ok(value.into()),
    };
    read.ok_or_else(|| {
        let message = format!("{shown} has more than {}, the most that a value has", bytes_text(MAX_VALUE_BYTES));
        Failure::new("file_too_large", message)
    })
}

async fn get(ctx: &Context, bucket: &BucketName, key: &KvKey) -> Result {
    let found = ctx.client.kv_get(bucket.as_str(), key.as_str()).await?.ok_or_else(|| no_entry(bucket, key))?;
    let KvValue { value, version, expires_at, .. } = found;
    match ctx.terminal.format {
        Format::Json | Format::Jsonl => {
            let mut object = json!({ "bucket": bucket, "key": key, "version": version, "expires_at": expires_at });
            match std::str::from_utf8(&value) {
                Ok(text) => object["value"] = text.into(),
                Err(_) => object["value_base64"] = STANDARD.encode(&value).into(),
            }
            ctx.terminal.line(&object.to_string())
        }
        // What people see must not control their terminal.
        Format::Table | Format::Id if io::stdout().is_terminal() => {
            ctx.terminal.line(&escaped(&String::from_utf8_lossy(&value)))
        }
        Format::Table | Format::Id => {
            let mut stdout = io::stdout().lock();
            let written = stdout.write_all(&value).and_then(|()| stdout.flush());
            written.map_err(closed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_a_text_a_file_or_a_text_that_begins_with_an_at() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), [0, 255]).unwrap();
        assert_eq!(read("a b").unwrap(), b"a b");
        assert_eq!(read("@@home").unwrap(), b"@home");
        assert_eq!(read(&format!("@{}", file.path().display())).unwrap(), [0, 255]);
        assert_eq!(read("@/nowhere/x").unwrap_err().exit, Exit::NotFound);
        fs::write(file.path(), vec![0; MAX_VALUE_BYTES as usize + 1]).unwrap();
        assert_eq!(read(&format!("@{}", file.path().display())).unwrap_err().code, "file_too_large");
    }
}
