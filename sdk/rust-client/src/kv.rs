//! Key-value entries: what tasks keep in buckets, read and written from outside.

use std::time::Duration;

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::HeaderMap;
use serde::Deserialize;

use crate::{
    client::{Client, Request, typed},
    error::Error,
};

/// What stays as it is in a part of a path.
const PART: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A bucket that has entries.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct KvBucket {
    pub name: String,
    /// Those included that have expired and are not deleted yet.
    pub entries: u64,
}

/// An entry of a list.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct KvItem {
    pub key: String,
    pub version: u64,
    pub size_bytes: u64,
    /// RFC 3339; none: never.
    #[serde(default)]
    pub expires_at: Option<String>,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct KvItems {
    pub items: Vec<KvItem>,
    /// Pass it on for the next page; none at the end.
    #[serde(default)]
    pub next_cursor: Option<String>,
}

/// A value and its version.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KvValue {
    pub value: Bytes,
    /// Rises with each change, also when an entry is deleted and made again.
    pub version: u64,
    /// RFC 3339; none: never.
    pub expires_at: Option<String>,
}

/// How an entry is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KvPut {
    /// None: for ever.
    pub ttl: Option<Duration>,
    pub expect: KvExpect,
}

/// What a write expects to find. Otherwise it is refused with the code `version_conflict`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KvExpect {
    #[default]
    Any,
    Absent,
    Version(u64),
}

impl KvExpect {
    pub(crate) fn on(self, request: Request) -> Request {
        match self {
            // Done twice it would conflict with itself, or with others that wrote meanwhile.
            Self::Any => request,
            Self::Absent => request.header("if-none-match", "*"),
            Self::Version(version) => request.header("if-match", format!("\"{version}\"")),
        }
    }
}

#[derive(Deserialize)]
struct Stored {
    version: u64,
}

#[derive(Deserialize)]
struct Sum {
    value: i64,
}

#[derive(Deserialize)]
struct Deleted {
    deleted: u64,
    has_more: bool,
}

pub(crate) fn part(text: &str) -> impl std::fmt::Display {
    utf8_percent_encode(text, PART)
}

/// The path of an entry, with its key percent-encoded.
pub fn kv_path(bucket: &str, key: &str) -> String {
    format!("/v1/kv/{}/{}", part(bucket), part(key))
}

impl Client {
    /// The buckets of the tenant that have entries.
    pub async fn kv_buckets(&self) -> Result<Vec<KvBucket>, Error> {
        #[derive(Deserialize)]
        struct Buckets {
            items: Vec<KvBucket>,
        }
        Ok(self.get("/v1/kv").answer::<Buckets>().await?.items)
    }

    /// A value; none when there is no entry.
    pub async fn kv_get(&self, bucket: &str, key: &str) -> Result<Option<KvValue>, Error> {
        let (value, headers) = match self.get(kv_path(bucket, key)).bytes_and_headers().await {
            Err(error) if error.code() == Some("entry_not_found") => return Ok(None),
            answered => answered?,
        };
        let version = text(&headers, "etag").and_then(|tag| tag.trim_matches('"').parse().ok());
        let version = version.ok_or(Error::BadAnswer)?;
        Ok(Some(KvValue { value, version, expires_at: text(&headers, "x-expires-at") }))
    }

    /// Stores a value and answers its version.
    pub async fn kv_put(&self, bucket: &str, key: &str, value: impl Into<Bytes>, how: KvPut) -> Result<u64, Error> {
        let mut request = self.change(reqwest::Method::PUT, kv_path(bucket, key));
        if let Some(ttl) = how.ttl {
            request = request.query("ttl", format!("{}ms", ttl.as_millis()));
        }
        let request = how.expect.on(request.body("application/octet-stream", value));
        Ok(typed::<Stored>(&request.text().await?)?.version)
    }

    /// Adds to a number, or to 0 where there is none, and answers the sum.
    pub async fn kv_increment(&self, bucket: &str, key: &str, by: i64) -> Result<i64, Error> {
        let request = self.post(format!("{}/increment", kv_path(bucket, key)));
        let request = request.json(&serde_json::json!({ "by": by }));
        Ok(typed::<Sum>(&request.text().await?)?.value)
    }

    /// Deletes an entry; whether there was one.
    pub async fn kv_delete(&self, bucket: &str, key: &str, expect: KvExpect) -> Result<bool, Error> {
        match expect.on(self.delete(kv_path(bucket, key))).text().await {
            Ok(_) => Ok(true),
            Err(error) if error.code() == Some("entry_not_found") => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A page of the entries of a bucket whose keys begin with `prefix`.
    pub async fn kv_list(
        &self,
        bucket: &str,
        prefix: &str,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<KvItems, Error> {
        let mut request = self.get(format!("/v1/kv/{}", part(bucket))).query("limit", limit.to_string());
        if !prefix.is_empty() {
            request = request.query("prefix", prefix);
        }
        request = cursor.into_iter().fold(request, |request, cursor| request.query("cursor", cursor));
        request.answer().await
    }

    /// Deletes all entries of a bucket, in as many requests as that takes; how many there were.
    pub async fn kv_delete_bucket(&self, bucket: &str) -> Result<u64, Error> {
        let mut all = 0;
        loop {
            let step: Deleted = self.delete(format!("/v1/kv/{}", part(bucket))).repeatable().answer().await?;
            all += step.deleted;
            if !step.has_more {
                return Ok(all);
            }
        }
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_part_of_a_path_whatever_is_in_it() {
        assert_eq!(kv_path("cursors", "orders/7 é?#%"), "/v1/kv/cursors/orders%2F7%20%C3%A9%3F%23%25");
    }
}
