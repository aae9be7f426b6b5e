//! Blobs: files that are put once, referred to in arguments and results, and downloaded in pieces.

use std::{io, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use reqwest::Body;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    client::{Client, Pieces, typed},
    error::Error,
};

/// The longest time between two pieces of a download.
const SILENCE: Duration = Duration::from_secs(60);

/// A reference to a blob, as it stands in arguments and results: `{"$blob": "sha256:…"}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlobRef {
    #[serde(rename = "$blob")]
    pub digest: String,
}

/// What the server knows of a blob.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct BlobInfo {
    /// `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    pub size_bytes: u64,
    /// The media type with which it was put first.
    #[serde(default)]
    pub content_type: Option<String>,
    pub created_at: String,
    /// Jobs that are kept and refer to it.
    pub references: u64,
    /// Since when none does.
    #[serde(default)]
    pub unused_since: Option<String>,
}

impl BlobInfo {
    /// The reference for arguments.
    pub fn reference(&self) -> BlobRef {
        BlobRef { digest: self.digest.clone() }
    }
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct BlobPage {
    pub items: Vec<BlobInfo>,
    /// Pass it on for the next page; none at the end.
    #[serde(default)]
    pub next_cursor: Option<String>,
}

/// A download: the bytes as they arrive.
#[must_use = "nothing is downloaded until it is read"]
pub struct BlobDownload {
    pieces: Pieces,
    /// Of a whole blob: its digest, and that of what was read.
    check: Option<(String, Sha256)>,
}

impl BlobDownload {
    /// The next bytes; none at the end. The end of a whole blob is an error when the bytes were not those of its digest.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let piece = self.pieces.next().await?;
        match (&piece, self.check.take()) {
            (Some(piece), Some((digest, sha))) => self.check = Some((digest, sha.chain_update(piece))),
            (None, Some((digest, sha))) if format!("sha256:{}", hex::encode(sha.clone().finalize())) != digest => {
                return Err(Error::DamagedBlob(digest));
            }
            _ => {}
        }
        Ok(piece)
    }

    /// All bytes, at most `max_bytes`.
    pub async fn bytes(mut self, max_bytes: usize) -> Result<Bytes, Error> {
        let mut all = Vec::new();
        while let Some(piece) = self.next().await? {
            if all.len() + piece.len() > max_bytes {
                return Err(Error::AnswerTooLarge(max_bytes));
            }
            all.extend_from_slice(&piece);
        }
        Ok(all.into())
    }
}

impl Client {
    /// Stores bytes as a blob. The same bytes twice are one blob.
    pub async fn put_blob(&self, bytes: impl Into<Bytes>, content_type: Option<&str>) -> Result<BlobInfo, Error> {
        let bytes = bytes.into();
        let size = bytes.len() as u64;
        let piece = move |left: Bytes| async move {
            let mut left = left;
            (!left.is_empty()).then(|| (Ok(left.split_to(left.len().min(64 << 10))), left))
        };
        self.put_blob_stream(stream::unfold(bytes, piece), Some(size), content_type).await
    }

    /// Stores what a stream gives as a blob; `size`, if it is known, is its bytes. An upload that breaks leaves nothing, and may be
    /// made again.
    pub async fn put_blob_stream(
        &self,
        bytes: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
        size: Option<u64>,
        content_type: Option<&str>,
    ) -> Result<BlobInfo, Error> {
        typed(&self.put_stream("/v1/blobs", Body::wrap_stream(bytes.boxed()), size, content_type).await?)
    }

    /// Begins to download a blob.
    pub async fn get_blob(&self, digest: &str) -> Result<BlobDownload, Error> {
        let pieces = self.get(format!("/v1/blobs/{digest}")).pieces(SILENCE).await?;
        Ok(BlobDownload { pieces, check: Some((digest.to_owned(), Sha256::new())) })
    }

    /// The same of the bytes from `first` to `last`, that one included; to the end without it.
    pub async fn get_blob_range(&self, digest: &str, first: u64, last: Option<u64>) -> Result<BlobDownload, Error> {
        let last = last.map(|last| last.to_string()).unwrap_or_default();
        let request = self.get(format!("/v1/blobs/{digest}")).header("range", format!("bytes={first}-{last}"));
        Ok(BlobDownload { pieces: request.pieces(SILENCE).await?, check: None })
    }

    /// What the server knows of a blob; none when there is no such blob.
    pub async fn blob(&self, digest: &str) -> Result<Option<BlobInfo>, Error> {
        match self.get(format!("/v1/blobs/{digest}/info")).answer().await {
            Err(error) if error.code() == Some("blob_not_found") => Ok(None),
            answered => answered.map(Some),
        }
    }

    /// A page of the blobs of the tenant, by digest.
    pub async fn blobs(&self, cursor: Option<&str>, limit: u32) -> Result<BlobPage, Error> {
        let request = self.get("/v1/blobs").query("limit", limit.to_string());
        cursor.into_iter().fold(request, |request, cursor| request.query("cursor", cursor)).answer().await
    }

    /// Deletes a blob to which no job refers; whether there was one.
    pub async fn delete_blob(&self, digest: &str) -> Result<bool, Error> {
        match self.delete(format!("/v1/blobs/{digest}")).text().await {
            Ok(_) => Ok(true),
            Err(error) if error.code() == Some("blob_not_found") => Ok(false),
            Err(error) => Err(error),
        }
    }
}
