//! Blobs: files of the tenant, which jobs refer to in arguments and results.
//!
//! The order of records and bytes is that of `umbel_broker::Blobs`. A download is never shown by a browser: it is an attachment
//! whatever its type.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use umbel_broker::{BlobDeleted, BlobPut, BlobRecord, MAX_CONTENT_TYPE_BYTES, NewBlob, PutBlob, StorageLimits};
use umbel_model::{Digest, TenantId};
use umbel_modules::{Error as StoreError, WrittenBlob};
use utoipa::{IntoParams, ToSchema};

use crate::{
    blob_range::{self, Part},
    body::{Chunks, answer, is_declared_longer, ok, or_drain},
    extract::{Context, Query},
    paging::{PageQuery, cursor, limit_of, parse_cursor},
    problem::{Problem, Result},
    state::Api,
    storage_quota,
    time::Timestamp,
    views::views,
};

const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

views! {
    /// A blob of the tenant.
    Blob from (blob: BlobRecord) {
        /// `sha256:` and 64 hex digits: the SHA-256 of its bytes.
        digest: String = blob.digest.to_string(),
        size_bytes: u64 = blob.bytes,
        /// The media type with which it was put first.
        #[serde(skip_serializing_if = "Option::is_none")]
        content_type: Option<String> = blob.content_type,
        created_at: Timestamp = Timestamp(blob.created_at),
        /// Jobs that are kept and refer to it.
        references: u64 = blob.references,
        /// Since when none does. It is deleted some days after that.
        #[serde(skip_serializing_if = "Option::is_none")]
        unused_since: Option<Timestamp> = blob.unused_since.map(Timestamp),
    }

    /// A page of blobs by digest.
    Blobs from (blobs: Vec<BlobRecord>, next: Option<Digest>) {
        items: Vec<Blob> = blobs.into_iter().map(Blob::new).collect(),
        next_cursor: Option<String> = next.map(|digest| cursor(&digest.to_string())),
    }
}

/// The bytes of a blob.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "describes the body, is never built")]
pub(crate) struct BlobBytes(Vec<u8>);

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PutBlobQuery {
    /// Refuse bytes that have another digest: `sha256:` and 64 hex digits.
    digest: Option<String>,
}

/// Stores a blob: the bytes of the body, whatever their media type. It may be repeated: the same bytes are one blob.
#[utoipa::path(
    put, path = "/v1/blobs", tag = "blobs",
    params(
        PutBlobQuery,
        ("Repr-Digest" = Option<String>, Header, description = "`sha-256=:…:`: refuse other bytes (RFC 9530)"),
    ),
    request_body(content = BlobBytes, content_type = "application/octet-stream"),
    responses(
        (status = 201, body = Blob),
        (status = 200, body = Blob, description = "The same bytes were there"),
    )
)]
pub(crate) async fn put(cx: Context, Query(query): Query<PutBlobQuery>, headers: HeaderMap, body: Body) -> Result {
    let Context { api, caller, .. } = cx;
    let ((content_type, wanted), body) = or_drain(checked(&api, &query, &headers), body).await?;
    let (permit, body) = or_drain(api.blob_uploads.acquire(&caller.tenant).await, body).await?;
    let (room, body) = or_drain(room(&api, &caller.tenant, &headers, wanted).await, body).await?;
    let blob = uploaded(&api, &caller.tenant, Chunks::new(&api, body), room).await?;
    let digest = blob.digest;
    if wanted.is_some_and(|wanted| wanted != digest) {
        return Err(Problem::digest_mismatch(format!("the bytes that arrived have the digest {digest}")));
    }
    let (storing, tenant) = (api.clone(), caller.tenant.clone());
    // A task of its own: a client that goes away does not leave bytes behind that have no record.
    let storing = tokio::spawn(async move {
        let _permit = permit;
        stored(&storing, &tenant, &blob, content_type).await
    });
    let put = storing.await.map_err(|_| Problem::see_log())??;
    let record = api.broker.blob(&caller.tenant, digest).await?;
    // It may be deleted already.
    let record = record.ok_or_else(|| Problem::no_blob(digest))?;
    let status = if put == BlobPut::Stored { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = answer(status, &Blob::new(record))?;
    if let Ok(location) = HeaderValue::from_str(&format!("/v1/blobs/{digest}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    tag(&mut response, digest);
    Ok(response)
}

/// The media type and the digest that the caller says.
fn checked(api: &Api, query: &PutBlobQuery, headers: &HeaderMap) -> Result<(Option<String>, Option<Digest>)> {
    let content_type = match headers.get(header::CONTENT_TYPE).map(|value| value.to_str()) {
        None => None,
        Some(Ok(text)) if (1..=MAX_CONTENT_TYPE_BYTES).contains(&text.len()) => Some(text.to_owned()),
        Some(_) => {
            let text = format!("Content-Type: at most {MAX_CONTENT_TYPE_BYTES} visible ASCII characters");
            return Err(Problem::invalid_header(text));
        }
    };
    if is_declared_longer(headers, api.config.max_blob_bytes) {
        return Err(too_large(api.config.max_blob_bytes));
    }
    let of_query = query.digest.as_deref().map(|text| {
        text.parse().map_err(|_| Problem::invalid_query("digest: write `sha256:` and 64 lower-case hex digits"))
    });
    Ok((content_type, of_query.transpose()?.or(repr_digest(headers)?)))
}

/// That of `Repr-Digest` when it names SHA-256; other algorithms are left alone, as RFC 9530 asks.
fn repr_digest(headers: &HeaderMap) -> Result<Option<Digest>> {
    let text = headers.get(REPR_DIGEST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let given = text.split(',').find_map(|member| member.trim().strip_prefix("sha-256=:")?.strip_suffix(':'));
    let Some(given) = given else { return Ok(None) };
    let bytes = STANDARD.decode(given).ok().and_then(|bytes| bytes.try_into().ok());
    let invalid = || Problem::invalid_header("Repr-Digest: `sha-256=:` wants the 32 bytes in base64");
    Ok(Some(Digest::from_bytes(bytes.ok_or_else(invalid)?)))
}

/// How many bytes a blob may have that is put.
#[derive(Debug, Clone, Copy)]
enum Room {
    /// What is free, at most what one blob may have.
    Free(u64),
    /// The tenant has a blob of the wanted digest, with so many bytes.
    Known(u64),
}

/// A tenant without room sends nothing that would be refused in the end. A blob that it has takes none, and may be put again, also to
/// repair it; that is known beforehand when its digest is `wanted`.
async fn room(api: &Api, tenant: &TenantId, headers: &HeaderMap, wanted: Option<Digest>) -> Result<Room> {
    if let Some(wanted) = wanted
        && let Some(known) = api.broker.blob(tenant, wanted).await?
        && known.bytes <= api.config.max_blob_bytes
    {
        return if is_declared_longer(headers, known.bytes) { Err(longer()) } else { Ok(Room::Known(known.bytes)) };
    }
    let limits = api.broker.storage_limits(tenant).await?.or(api.broker.default_storage_limits());
    let StorageLimits { blobs: max, .. } = limits;
    let free = match max {
        0 => u64::MAX,
        max => max.saturating_sub(api.broker.stored_bytes(tenant).await?.blobs),
    };
    if free == 0 || is_declared_longer(headers, free) {
        return Err(storage_quota::of_blobs(api, tenant).await);
    }
    Ok(Room::Free(free.min(api.config.max_blob_bytes)))
}

/// Of bytes that cannot be those of a blob that is known.
fn longer() -> Problem {
    Problem::digest_mismatch("there are more bytes than the blob with that digest has")
}

/// Writes the body into the store, under no name yet.
async fn uploaded(api: &Api, tenant: &TenantId, mut chunks: Chunks, room: Room) -> Result<WrittenBlob> {
    let (Room::Free(max_bytes) | Room::Known(max_bytes)) = room;
    let mut upload = api.store.blob_upload(max_bytes).await?;
    while let Some(chunk) = chunks.next().await? {
        match upload.write(&chunk).await {
            Ok(()) => {}
            Err(StoreError::BlobTooLarge { .. }) if matches!(room, Room::Known(_)) => return Err(longer()),
            Err(StoreError::BlobTooLarge { .. }) if max_bytes < api.config.max_blob_bytes => {
                return Err(storage_quota::of_blobs(api, tenant).await);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(upload.finish().await?)
}

/// Publishes the bytes and makes their record.
async fn stored(api: &Api, tenant: &TenantId, blob: &WrittenBlob, content_type: Option<String>) -> Result<BlobPut> {
    blob.publish(tenant).await?;
    let new = NewBlob { digest: blob.digest, bytes: blob.size_bytes, content_type };
    let put = api.broker.put_blob(&PutBlob { tenant: tenant.clone(), blob: new }).await?;
    match put {
        BlobPut::Stored | BlobPut::Present => {
            blob.publish_again(tenant).await?;
            Ok(put)
        }
        BlobPut::StorageFull => {
            remove_bytes(api, tenant, blob.digest).await?;
            Err(storage_quota::of_blobs(api, tenant).await)
        }
        BlobPut::TooMany(max) => {
            remove_bytes(api, tenant, blob.digest).await?;
            Err(Problem::too_many_blobs(format!("a tenant has at most {max} blobs: delete some that are not needed")))
        }
    }
}

/// Deletes the bytes of a blob, unless it has a record.
async fn remove_bytes(api: &Api, tenant: &TenantId, digest: Digest) -> Result<()> {
    let has_record = async || Ok::<_, umbel_broker::Error>(api.broker.blob(tenant, digest).await?.is_some());
    // Somebody else may have it by now: its bytes must not be away even for a moment.
    if has_record().await? {
        return Ok(());
    }
    Ok(api.store.delete_blob_unless(tenant, &digest, has_record()).await??)
}

pub(crate) fn too_large(max_bytes: u64) -> Problem {
    Problem::blob_too_large(format!("a blob has at most {max_bytes} bytes"))
}

/// The blobs of the tenant, in the order of their digests.
#[utoipa::path(get, path = "/v1/blobs", tag = "blobs", params(PageQuery), responses((status = 200, body = Blobs)))]
pub(crate) async fn list(Context { api, caller, .. }: Context, Query(query): Query<PageQuery>) -> Result {
    let after: Option<Digest> = parse_cursor(query.cursor(), |text| text.parse().ok())?;
    let page = api.broker.blobs(&caller.tenant, after.as_ref(), limit_of(query.limit())?).await?;
    ok(&Blobs::new(page.blobs, page.next))
}

/// What is known of a blob, without its bytes.
#[utoipa::path(get, path = "/v1/blobs/{digest}/info", tag = "blobs", responses((status = 200, body = Blob)))]
pub(crate) async fn info(Context { api, caller, id: digest, .. }: Context<Digest>) -> Result {
    let record = api.broker.blob(&caller.tenant, digest).await?.ok_or_else(|| Problem::no_blob(digest))?;
    ok(&Blob::new(record))
}

/// The bytes of a blob, or a range of them.
#[utoipa::path(
    get, path = "/v1/blobs/{digest}", tag = "blobs",
    params(
        ("Range" = Option<String>, Header, description = "`bytes=A-B`, `bytes=A-` or `bytes=-N`: one range"),
        ("If-Range" = Option<String>, Header, description = "An entity tag: the range only if it is still that one"),
        ("If-None-Match" = Option<String>, Header, description = "The entity tag that was read: answer 304 when it is that one"),
    ),
    responses(
        (status = 200, body = BlobBytes, content_type = "application/octet-stream",
            description = "The bytes, of the media type with which they were put, as an attachment"),
        (status = 206, body = BlobBytes, content_type = "application/octet-stream", description = "The range, see `Content-Range`"),
        (status = 304, description = "It has not changed"),
    )
)]
pub(crate) async fn get(Context { api, caller, id: digest, .. }: Context<Digest>, headers: HeaderMap) -> Result {
    let record = api.broker.blob(&caller.tenant, digest).await?.ok_or_else(|| Problem::no_blob(digest))?;
    if blob_range::is_known(&headers, digest) {
        let mut response = StatusCode::NOT_MODIFIED.into_response();
        tag(&mut response, digest);
        return Ok(response);
    }
    // Before anything is answered: what is missing then can only break the answer off.
    if api.store.blob_size(&caller.tenant, &digest).await? != Some(record.bytes) {
        tracing::error!(tenant = %caller.tenant, %digest, "the bytes of a blob are missing or damaged");
        return Err(Problem::blob_lost("its bytes are missing or damaged; put it again to repair it"));
    }
    let (status, range) = match blob_range::asked(&headers, digest, record.bytes) {
        Part::Whole => (StatusCode::OK, 0..record.bytes),
        Part::Range(range) => (StatusCode::PARTIAL_CONTENT, range),
        Part::Outside => {
            let content_range = HeaderValue::from_str(&format!("bytes */{}", record.bytes));
            let problem = Problem::invalid_range(format!("the blob has {} bytes", record.bytes));
            return Err(content_range.into_iter().fold(problem, |p, value| p.header(header::CONTENT_RANGE, value)));
        }
    };
    let pieces = api.store.blob_pieces(&caller.tenant, &digest, range.clone());
    let mut response = (status, Body::from_stream(pieces)).into_response();
    describe(&mut response, &record, status, &range);
    Ok(response)
}

/// The headers of a download. Nothing that a user sent is shown by a browser.
fn describe(response: &mut Response, record: &BlobRecord, status: StatusCode, range: &std::ops::Range<u64>) {
    tag(response, record.digest);
    let headers = response.headers_mut();
    let fixed = [
        (header::ACCEPT_RANGES, "bytes"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'"),
        (header::CACHE_CONTROL, "private, no-cache"),
    ];
    headers.extend(fixed.map(|(name, value)| (name, HeaderValue::from_static(value))));
    let hex = record.digest.hex();
    let mut texts = vec![
        (header::CONTENT_TYPE, record.content_type.clone().unwrap_or_else(|| "application/octet-stream".into())),
        (header::CONTENT_LENGTH, (range.end - range.start).to_string()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{}.blob\"", &hex[..16])),
    ];
    if status == StatusCode::PARTIAL_CONTENT {
        let last = range.end.saturating_sub(1);
        texts.push((header::CONTENT_RANGE, format!("bytes {}-{last}/{}", range.start, record.bytes)));
    }
    for (name, text) in texts {
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(name, value);
        }
    }
}

/// A blob is its digest: a strong entity tag.
fn tag(response: &mut Response, digest: Digest) {
    if let Ok(value) = HeaderValue::from_str(&format!("\"{digest}\"")) {
        response.headers_mut().insert(header::ETAG, value);
    }
}

/// Deletes a blob to which no job refers.
#[utoipa::path(
    delete, path = "/v1/blobs/{digest}", tag = "blobs",
    responses((status = 204, description = "It is gone"))
)]
pub(crate) async fn delete(Context { api, caller, id: digest, .. }: Context<Digest>) -> Result {
    match api.broker.delete_blob(&caller.tenant, digest).await? {
        BlobDeleted::Deleted => {}
        BlobDeleted::NotFound => return Err(Problem::no_blob(digest)),
        BlobDeleted::InUse(count) => {
            let jobs = if count == 1 { "a job refers to it".to_owned() } else { format!("{count} jobs refer to it") };
            return Err(Problem::blob_in_use(format!("{jobs}: forget them first, or wait until they are")));
        }
    }
    remove_bytes(&api, &caller.tenant, digest).await?;
    tracing::info!(%digest, "blob deleted");
    Ok(StatusCode::NO_CONTENT.into_response())
}
