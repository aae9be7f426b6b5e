//! Key-value entries: what tasks keep, for people and programs to read and write. Their writes name no delivery.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::IntoResponse as _,
};
use serde::Deserialize;
use umbel_broker::{
    Expect, KV_STEP, KvBucket, KvBucketDeleted, KvChange, KvEntry, KvQuery, KvWrite, KvWritten, MAX_KV_TTL_MS,
};
use umbel_model::{BucketName, KvKey, human};
use utoipa::{IntoParams, ToSchema};

use crate::{
    body::{ok, or_drain, read_bytes},
    etag::{self, expected, tagged},
    extract::{Context, EntryParam, OptionalJson, Query},
    paging::{cursor, limit_of, parse_cursor},
    problem::{Problem, Result, cut},
    storage_quota,
    time::Timestamp,
    views::views,
};

/// Steps in which one request deletes entries of a bucket.
const DELETE_STEPS: u32 = 10;
/// When an entry expires: not `Expires`, which is for caches.
const EXPIRES_AT: HeaderName = HeaderName::from_static("x-expires-at");

views! {
    /// The buckets that have entries, by name.
    Buckets from (buckets: Vec<KvBucket>) {
        items: Vec<Bucket> = buckets.into_iter().map(Bucket::new).collect(),
    }

    /// A key-value bucket.
    Bucket from (bucket: KvBucket) {
        name: String = bucket.name.into(),
        /// Entries, those included that have expired and are not deleted yet.
        entries: u64 = bucket.entries,
    }

    /// A key-value entry without its value.
    Entry from (key: KvKey, entry: KvEntry) {
        key: String = key.into(),
        /// Rises with each change, also when an entry is deleted and made again.
        version: u64 = entry.version,
        /// Of the value.
        size_bytes: u64 = entry.value.len() as u64,
        /// None: never.
        #[serde(skip_serializing_if = "Option::is_none")]
        expires_at: Option<Timestamp> = entry.expires_at.map(Timestamp),
    }

    /// A page of entries by key.
    Entries from (entries: Vec<(KvKey, KvEntry)>, next: Option<KvKey>) {
        items: Vec<Entry> = entries.into_iter().map(|(key, entry)| Entry::new(key, entry)).collect(),
        /// An empty page may have one.
        next_cursor: Option<String> = next.map(|key| cursor(key.as_str())),
    }

    /// What a step of deleting a bucket did.
    BucketDeletion from (deleted: u32, has_more: bool) {
        deleted: u32 = deleted,
        /// Entries are left: send it again.
        has_more: bool = has_more,
    }

    /// An entry that was written.
    EntryVersion from (version: u64) {
        version: u64 = version,
    }

    /// A number that was changed.
    EntryNumber from (version: u64, value: i64) {
        version: u64 = version,
        value: i64 = value,
    }
}

/// The buckets of the tenant that have entries.
#[utoipa::path(get, path = "/v1/kv", tag = "kv", responses((status = 200, body = Buckets)))]
pub(crate) async fn buckets(Context { api, caller, .. }: Context) -> Result {
    ok(&Buckets::new(api.broker.kv_buckets(&caller.tenant).await?))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Only keys that begin with it.
    prefix: Option<String>,
    /// From 1 to 200; 50 when not given. Large values fill a page before its limit.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// The entries of a bucket by key, in the order of the keys' bytes, without their values.
#[utoipa::path(get, path = "/v1/kv/{bucket}", tag = "kv", params(ListQuery), responses((status = 200, body = Entries)))]
pub(crate) async fn list(cx: Context<BucketName>, Query(query): Query<ListQuery>) -> Result {
    let prefix = query.prefix.unwrap_or_default();
    if prefix.len() > KvKey::MAX_BYTES {
        return Err(Problem::invalid_query(format!("prefix: at most {} bytes", KvKey::MAX_BYTES)));
    }
    let max = limit_of(query.limit)?;
    let after = parse_cursor(query.cursor.as_deref(), |text| text.parse().ok())?;
    let query = KvQuery { tenant: cx.caller.tenant, bucket: cx.id, prefix, after, max };
    let page = cx.api.broker.kv_list(&query).await?;
    ok(&Entries::new(page.entries, page.next))
}

/// Deletes entries of a bucket, some thousand at once: send it again until nothing is left.
#[utoipa::path(delete, path = "/v1/kv/{bucket}", tag = "kv", responses((status = 200, body = BucketDeletion)))]
pub(crate) async fn delete_bucket(Context { api, caller, id: bucket, .. }: Context<BucketName>) -> Result {
    let mut all = KvBucketDeleted { deleted: 0, has_more: true };
    for _ in 0..DELETE_STEPS {
        let KvBucketDeleted { deleted, has_more } =
            api.broker.kv_delete_bucket(&caller.tenant, &bucket, KV_STEP).await?;
        all = KvBucketDeleted { deleted: all.deleted + deleted, has_more };
        if !has_more {
            break;
        }
    }
    tracing::info!(%bucket, deleted = all.deleted, "entries of a bucket were deleted");
    ok(&BucketDeletion::new(all.deleted, all.has_more))
}

/// The value of an entry, as it was written.
#[utoipa::path(
    get, path = "/v1/kv/{bucket}/{key}", tag = "kv",
    params(("If-None-Match" = Option<String>, Header, description = "The entity tag that was read: answer 304 when it is still that one")),
    responses(
        (status = 200, body = ValueBytes, content_type = "application/octet-stream",
            description = "The value; `ETag` is its version, and `X-Expires-At` says when it expires, if it does"),
        (status = 304, description = "It has not changed"),
    )
)]
pub(crate) async fn get(cx: Context<EntryParam>, headers: HeaderMap) -> Result {
    let Context { api, caller, id: (bucket, key), .. } = cx;
    let found = api.broker.kv_get(&caller.tenant, &bucket, std::slice::from_ref(&key)).await?;
    let entry = found.into_iter().flatten().next().ok_or_else(|| no_entry(&bucket, &key))?;
    let tag = format!("\"{}\"", entry.version);
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let mut response = if known == Some("*") || known == Some(tag.as_str()) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let headers = [(header::CONTENT_TYPE, "application/octet-stream"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
        (headers, entry.value).into_response()
    };
    etag::put(&mut response, entry.version);
    let expires_at = entry.expires_at.and_then(|at| serde_json::to_value(Timestamp(at)).ok());
    if let Some(value) = expires_at.as_ref().and_then(|at| HeaderValue::from_str(at.as_str()?).ok()) {
        response.headers_mut().insert(EXPIRES_AT, value);
    }
    Ok(response)
}

/// Any bytes.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "describes the body, is never built")]
pub(crate) struct ValueBytes(Vec<u8>);

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PutQuery {
    /// How long the entry lives, such as `10m`; for ever when not given.
    ttl: Option<String>,
}

/// Stores a value: the bytes of the body, whatever its media type.
#[utoipa::path(
    put, path = "/v1/kv/{bucket}/{key}", tag = "kv",
    params(
        PutQuery,
        ("If-Match" = Option<String>, Header, description = "The entity tag that was read: refuse when it has changed"),
        ("If-None-Match" = Option<String>, Header, description = "`*`: refuse when there is an entry"),
    ),
    request_body(content = ValueBytes, content_type = "application/octet-stream"),
    responses((status = 200, body = EntryVersion, description = "Stored; `ETag` is its version"))
)]
pub(crate) async fn put(
    cx: Context<EntryParam>,
    Query(query): Query<PutQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result {
    let checked = expected(&headers).and_then(|expect| Ok((expect, ttl_ms(query.ttl.as_deref())?)));
    let ((expect, ttl_ms), body) = or_drain(checked, body).await?;
    let value = read_bytes(&cx.api, &headers, body, cx.api.config.max_value_bytes).await?.to_vec();
    match written(cx, expect, KvChange::Set { value, ttl_ms }).await? {
        KvWritten::Stored(version) => tagged(&EntryVersion::new(version), version),
        _ => Err(Problem::no_broker_answer()),
    }
}

/// Deletes an entry.
#[utoipa::path(
    delete, path = "/v1/kv/{bucket}/{key}", tag = "kv",
    params(("If-Match" = Option<String>, Header, description = "The entity tag that was read: refuse when it has changed")),
    responses((status = 204, description = "It is gone"))
)]
pub(crate) async fn delete(cx: Context<EntryParam>, headers: HeaderMap) -> Result {
    let (bucket, key) = cx.id.clone();
    match written(cx, expected(&headers)?, KvChange::Delete).await? {
        KvWritten::Deleted(true) => Ok(StatusCode::NO_CONTENT.into_response()),
        KvWritten::Deleted(false) => Err(no_entry(&bucket, &key)),
        _ => Err(Problem::no_broker_answer()),
    }
}

/// What is added to a number.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Increment {
    /// May be negative.
    by: i64,
    /// What it is added to where there is no entry.
    initial: i64,
    /// How long an entry lives that is made, such as `10m`; one that is there keeps its time.
    ttl: Option<String>,
}

impl Default for Increment {
    fn default() -> Self {
        Self { by: 1, initial: 0, ttl: None }
    }
}

/// Adds to a number, which is stored as decimal text.
#[utoipa::path(
    post, path = "/v1/kv/{bucket}/{key}/increment", tag = "kv",
    request_body = Option<Increment>, responses((status = 200, body = EntryNumber, description = "The sum"))
)]
pub(crate) async fn increment(cx: Context<EntryParam>, OptionalJson(body): OptionalJson<Increment>) -> Result {
    let ttl_ms = ttl_ms(body.ttl.as_deref())?;
    let change = KvChange::Add { delta: body.by, initial: body.initial, ttl_ms };
    match written(cx, Expect::Any, change).await? {
        KvWritten::Counted(version, value) => tagged(&EntryNumber::new(version, value), version),
        _ => Err(Problem::no_broker_answer()),
    }
}

/// Writes; what was refused is a problem.
async fn written(cx: Context<EntryParam>, expect: Expect, change: KvChange) -> Result<KvWritten> {
    let Context { api, caller, id: (bucket, key), .. } = cx;
    let write = KvWrite { tenant: caller.tenant, bucket, key, expect, change, delivery: None };
    match api.broker.kv_write(&write).await? {
        KvWritten::Conflict(0) => Err(Problem::version_conflict("there is no such entry, or it was deleted")),
        KvWritten::Conflict(found) => {
            let detail = format!("the entry has version {found}: read it again, and decide anew");
            Err(etag::with(Problem::version_conflict(detail), found))
        }
        KvWritten::TooLarge(max) => Err(Problem::value_too_large(format!("a value has at most {max} bytes"))),
        KvWritten::NotANumber => {
            Err(Problem::not_a_number("what is stored is no decimal number of 64 bits: set it to one, or delete it"))
        }
        KvWritten::Overflow => Err(Problem::not_a_number("the sum does not fit into 64 bits; nothing was changed")),
        KvWritten::TooManyBuckets(max) => Err(Problem::too_many_buckets(format!(
            "a tenant has at most {max} buckets: delete the entries of one that is not needed, or let an operator raise the limit"
        ))),
        KvWritten::StorageFull => Err(storage_quota::of_entries(&api, &write.tenant).await),
        KvWritten::Stale => Err(Problem::no_broker_answer()),
        done @ (KvWritten::Stored(_) | KvWritten::Counted(..) | KvWritten::Deleted(_)) => Ok(done),
    }
}

fn no_entry(bucket: &BucketName, key: &KvKey) -> Problem {
    Problem::entry_not_found(cut(&format!("bucket `{bucket}` has no entry {:?}", key.as_str())))
}

/// A time to live; 0: for ever.
fn ttl_ms(text: Option<&str>) -> Result<u64> {
    let Some(text) = text else { return Ok(0) };
    let ms = human::duration_ms(text).map_err(|problem| Problem::invalid_query(cut(&format!("ttl: {problem}"))))?;
    match ms {
        1..=MAX_KV_TTL_MS => Ok(ms),
        _ => Err(Problem::invalid_query("ttl: from 1ms to 3650d; leave it out for ever")),
    }
}
