//! Blobs: see `library/blobs.lua`.

use std::collections::HashSet;

use async_trait::async_trait;
use umbel_broker::{
    BlobDeleted, BlobGone, BlobPage, BlobPut, BlobRecord, Blobs, Error, Limits, NewBlob, PutBlob, Result, Settle, rules,
};
use umbel_model::{Digest, Resolution, TenantId};

use crate::{
    RedisBroker,
    answers::Answer,
    args,
    bytes::{Packed, Reader, corrupt, some},
    connection::Repeat,
    unknown_code,
};

/// Digits of a digest in an answer.
pub(crate) const HEX_DIGITS: usize = 64;
/// A media type gets into arguments behind a length of one byte.
const MOST_CONTENT_TYPE_BYTES: usize = 255;

#[async_trait]
impl Blobs for RedisBroker {
    async fn put_blob(&self, put: &PutBlob) -> Result<BlobPut> {
        let NewBlob { digest, bytes, content_type } = &put.blob;
        let Limits { max_blobs, max_blob_bytes, .. } = self.limits;
        let mut arguments = args([&put.tenant]);
        arguments.push(digest.to_bytes().to_vec());
        let content_type = checked(content_type.as_deref())?;
        arguments.extend(args([&(*bytes).min(1 << 53), &content_type, &max_blobs, &max_blob_bytes]));
        match self.typed::<String>("put_blob", arguments, Repeat::Safe).await?.as_str() {
            "C" => Ok(BlobPut::Stored),
            "P" => Ok(BlobPut::Present),
            "M" => Ok(BlobPut::TooMany(max_blobs)),
            "S" => Ok(BlobPut::StorageFull),
            _ => Err(unknown_code()),
        }
    }

    async fn blob(&self, tenant: &TenantId, digest: Digest) -> Result<Option<BlobRecord>> {
        let arguments = vec![tenant.to_string().into_bytes(), digest.to_bytes().to_vec()];
        let mut answer = self.answer("blob", arguments, Repeat::Safe).await?;
        if answer.done() { Ok(None) } else { record(&mut answer).map(Some) }
    }

    async fn blobs(&self, tenant: &TenantId, after: Option<&Digest>, max: u32) -> Result<BlobPage> {
        let from = after.map_or_else(|| b"-".to_vec(), |after| [b"(".as_slice(), &after.to_bytes()].concat());
        let max = max.min(umbel_broker::BLOB_STEP);
        let arguments = vec![tenant.to_string().into_bytes(), from, max.to_string().into_bytes()];
        let blobs = self.answer("blobs", arguments, Repeat::Safe).await?.rest(record)?;
        Ok(BlobPage::new(blobs, max))
    }

    async fn delete_blob(&self, tenant: &TenantId, digest: Digest) -> Result<BlobDeleted> {
        let arguments = vec![tenant.to_string().into_bytes(), digest.to_bytes().to_vec()];
        let code: i64 = self.typed("delete_blob", arguments, Repeat::OnlyUnsent).await?;
        Ok(match u64::try_from(code) {
            Err(_) => BlobDeleted::NotFound,
            Ok(0) => BlobDeleted::Deleted,
            Ok(references) => BlobDeleted::InUse(references),
        })
    }

    async fn collect_blobs(&self, retention_ms: u64, max: u32) -> Result<Vec<BlobGone>> {
        let arguments = args([&retention_ms.min(1 << 52), &max]);
        self.answer("collect_blobs", arguments, Repeat::OnlyUnsent).await?.rest(|answer| {
            let (tenant, digest) = (answer.parsed()?, raw_digest(&answer.bytes()?)?);
            Ok(BlobGone { tenant, digest })
        })
    }
}

fn checked(content_type: Option<&str>) -> Result<&str> {
    let content_type = content_type.unwrap_or_default();
    if content_type.len() > MOST_CONTENT_TYPE_BYTES {
        return Err(Error::Failed(format!("the media type of a blob is longer than {MOST_CONTENT_TYPE_BYTES} bytes")));
    }
    Ok(content_type)
}

/// A blob as `RECORD` in `library/blobs.lua` has it, behind its digest.
fn record(answer: &mut Answer) -> Result<BlobRecord> {
    let (digest, stored) = (raw_digest(&answer.bytes()?)?, answer.bytes()?);
    let mut r = Reader(&stored);
    let (bytes, created_at, unused_since, references) = (r.number(7)?, r.number(6)?, r.time()?, r.number(6)?);
    let content_type = some(r.rest()?).map(str::to_owned);
    Ok(BlobRecord { digest, bytes, content_type, created_at, references, unused_since })
}

fn raw_digest(bytes: &[u8]) -> Result<Digest> {
    Ok(Digest::from_bytes(bytes.try_into().map_err(|_| corrupt("a digest has not 32 bytes"))?))
}

/// A digest as answers have it.
pub(crate) fn digest(hex: &str) -> Result<Digest> {
    format!("sha256:{hex}").parse().map_err(corrupt)
}

/// What a settle says of blobs, as `SETTLED` in `library/blobs.lua` has it; none when it says nothing that is taken.
pub(crate) fn settled_blobs(settle: &Settle, limits: &Limits) -> Result<Option<Vec<u8>>> {
    let adds = matches!(settle.resolution, Resolution::Succeed { .. } | Resolution::Replace { .. });
    if !adds || !rules::blobs::has_blobs(settle) {
        return Ok(None);
    }
    let of_settle = settle.blobs.as_deref().cloned().unwrap_or_default();
    let count =
        u16::try_from(of_settle.written.len()).map_err(|_| Error::Failed("an attempt wrote too many blobs".into()))?;
    let mut packed = Packed::default().u56(limits.max_blobs).u56(limits.max_blob_bytes).u16(count);
    for NewBlob { digest, bytes, content_type } in &of_settle.written {
        packed = packed.raw(&digest.to_bytes()).u56(*bytes).name(checked(content_type.as_deref())?);
    }
    let mut known = HashSet::new();
    let grown = settle.growth.iter().flat_map(|growth| rules::blobs::of_growth(growth));
    let grown: Vec<u8> = grown.filter(|digest| known.insert(**digest)).flat_map(|digest| digest.to_bytes()).collect();
    let refers: Vec<u8> = of_settle.refers.iter().flat_map(|digest| digest.to_bytes()).collect();
    Ok(Some(packed.long(&refers).long(&grown).done()))
}
