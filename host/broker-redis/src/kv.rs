//! Key-value entries: see `library/kv.lua`.

use async_trait::async_trait;
use umbel_broker::{
    Error, Expect, KV_STEP, KeyValues, KvBucket, KvBucketDeleted, KvChange, KvEntry, KvPage, KvQuery, KvWrite,
    KvWritten, Limits, MAX_KV_TTL_MS, Result,
};
use umbel_model::{BucketName, KvKey, TenantId};

use crate::{
    RedisBroker, args,
    bytes::{Reader, corrupt},
    connection::Repeat,
    unknown_code,
};

/// Version and expiry in front of a value; `ENTRY` in `library/kv.lua`.
const HEADER_BYTES: usize = 13;

#[async_trait]
impl KeyValues for RedisBroker {
    async fn kv_get(&self, tenant: &TenantId, bucket: &BucketName, keys: &[KvKey]) -> Result<Vec<Option<KvEntry>>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut args = args([tenant, bucket]);
        args.extend(keys.iter().map(|key| key.as_str().as_bytes().to_vec()));
        self.answer("kv_get", args, Repeat::Safe).await?.rest(|answer| {
            let stored = answer.bytes()?;
            if stored.is_empty() { Ok(None) } else { entry(&stored).map(Some) }
        })
    }

    /// A write whose reply was lost is not repeated: it may be done, and others may have written since.
    async fn kv_write(&self, write: &KvWrite) -> Result<KvWritten> {
        let KvWrite { tenant, bucket, key, expect, change, delivery } = write;
        let expected = match expect {
            Expect::Any => String::new(),
            Expect::Absent => "0".into(),
            Expect::Version(version) => version.to_string(),
        };
        let (kind, value, initial, ttl_ms) = match change {
            KvChange::Set { value, ttl_ms } => ('s', value.clone(), 0, *ttl_ms),
            KvChange::Add { delta, initial, ttl_ms } => ('a', delta.to_string().into_bytes(), *initial, *ttl_ms),
            KvChange::Delete => ('d', Vec::new(), 0, 0),
        };
        let (job, token) = match delivery {
            Some(delivery) => (delivery.job.to_string(), delivery.token.as_str()),
            None => (String::new(), ""),
        };
        let Limits { max_value_bytes, max_buckets, max_kv_bytes, .. } = self.limits;
        let mut arguments = args([tenant, bucket, key, &expected, &kind]);
        arguments.push(value);
        let ttl_ms = ttl_ms.min(MAX_KV_TTL_MS);
        arguments.extend(args([&initial, &ttl_ms, &job, &token, &max_value_bytes, &max_buckets, &max_kv_bytes]));
        let function = if *change == KvChange::Delete { "kv_delete" } else { "kv_write" };
        let mut answer = self.answer(function, arguments, Repeat::OnlyUnsent).await?;
        let (code, number, text) = (answer.bytes()?, answer.number()? as u64, answer.text()?);
        Ok(match code.as_slice() {
            b"S" => KvWritten::Stored(number),
            b"N" => KvWritten::Counted(number, text.parse().map_err(corrupt)?),
            b"D" => KvWritten::Deleted(number == 1),
            b"C" => KvWritten::Conflict(number),
            b"L" => KvWritten::Stale,
            b"T" => KvWritten::TooLarge(number),
            b"X" => KvWritten::NotANumber,
            b"O" => KvWritten::Overflow,
            b"M" => KvWritten::TooManyBuckets(number),
            b"F" => KvWritten::StorageFull,
            _ => return Err(unknown_code()),
        })
    }

    async fn kv_list(&self, query: &KvQuery) -> Result<KvPage> {
        let KvQuery { tenant, bucket, prefix, after, max } = query;
        let mut from = match prefix.as_str() {
            "" => b"-".to_vec(),
            prefix => [b"[", prefix.as_bytes()].concat(),
        };
        if let Some(after) = after.as_ref().map(KvKey::as_str).filter(|after| *after >= prefix.as_str()) {
            from = [b"(", after.as_bytes()].concat();
        }
        // No text has this byte, so it is behind all that begin with the prefix.
        let to = if prefix.is_empty() { b"+".to_vec() } else { [b"(", prefix.as_bytes(), b"\xff"].concat() };
        let mut arguments = args([tenant, bucket]);
        arguments.extend([from, to, max.max(&1).to_string().into_bytes()]);
        let mut answer = self.answer("kv_list", arguments, Repeat::Safe).await?;
        let next = answer.text()?;
        let next = if next.is_empty() { None } else { Some(KvKey::new(next).map_err(corrupt)?) };
        let entries = answer.rest(|answer| Ok((answer.parsed()?, entry(&answer.bytes()?)?)))?;
        Ok(KvPage { entries, next })
    }

    async fn kv_buckets(&self, tenant: &TenantId) -> Result<Vec<KvBucket>> {
        self.answer("kv_buckets", args([tenant]), Repeat::Safe).await?.rest(|answer| {
            let (name, entries) = (answer.parsed()?, answer.number()?);
            Ok(KvBucket { name, entries: u64::try_from(entries).map_err(corrupt)? })
        })
    }

    /// Repeated after a lost reply, it deletes more of the same bucket.
    async fn kv_delete_bucket(&self, tenant: &TenantId, bucket: &BucketName, max: u32) -> Result<KvBucketDeleted> {
        let args = args([tenant, bucket, &max.min(KV_STEP)]);
        let mut answer = self.answer("kv_delete_bucket", args, Repeat::OnlyUnsent).await?;
        Ok(KvBucketDeleted { deleted: answer.number()? as u32, has_more: answer.number()? > 0 })
    }
}

fn entry(stored: &[u8]) -> Result<KvEntry> {
    let (header, value) =
        stored.split_at_checked(HEADER_BYTES).ok_or_else(|| Error::Corrupt("a key-value entry is too short".into()))?;
    let mut reader = Reader(header);
    let (version, expires_at) = (reader.number(7)?, reader.number(6)?);
    Ok(KvEntry { version, expires_at: (expires_at > 0).then_some(expires_at), value: value.to_vec() })
}
