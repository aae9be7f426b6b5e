//! Secrets of a tenant: set, listed and deleted, and never read. The value is the body of a request, and goes no further than into
//! its sealed form: no log line, problem or answer has it.

use axum::{
    body::Body,
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse as _,
};
use serde::Deserialize;
use umbel_broker::{DocumentPut, Expect};
use umbel_compose::{NewSecret, Rewrapped, Rotated, SecretDocument, SecretPut, Secrets};
use umbel_model::SecretName;
use umbel_secrets::{MAX_REVEALED_BYTES, SecretHost, SecretValue, Terms, hold_secrets};
use utoipa::{IntoParams, ToSchema};

use crate::{
    body::{ok, or_drain, read_bytes},
    etag::{self, if_match, tagged},
    extract::{Context, Operator, Query},
    problem::{Problem, Result, cut},
    state::Api,
    storage_quota,
    time::{Timestamp, now_ms},
    views::views,
};

views! {
    /// The secrets of the tenant, by name.
    SecretList from (secrets: Vec<SecretDocument>) {
        items: Vec<SecretView> = secrets.into_iter().map(SecretView::new).collect(),
    }

    /// A secret without its value, which nobody can read.
    #[schema(as = Secret)]
    SecretView from (secret: SecretDocument) {
        name: String = secret.name.to_string(),
        /// Rises with each change, also when it is sealed anew.
        version: u64 = secret.version,
        /// Where it may be sent: scheme, host and port.
        hosts: Vec<String> = secret.terms.hosts.iter().map(ToString::to_string).collect(),
        /// It may be put into bodies of requests, and not only into headers.
        body: bool = secret.terms.body,
        /// Code with the permission `secret NAME reveal` gets the value.
        reveal: bool = secret.terms.reveal,
        created_at: Timestamp = Timestamp(secret.created_at),
        /// When the value was set last.
        updated_at: Timestamp = Timestamp(secret.updated_at),
    }

    /// What a rotation of the tenant's data key did.
    Rotation from (rotated: Rotated) {
        /// Secrets that were sealed with the new key.
        sealed: usize = rotated.sealed,
        /// Older keys that seal nothing and were deleted.
        keys_deleted: usize = rotated.keys_deleted,
        /// Older keys that are kept for some minutes: a later rotation deletes them.
        keys_kept: usize = rotated.keys_kept,
    }

    /// How many data keys each master key wraps now.
    Rewrapping from (done: Rewrapped) {
        rewrapped: usize = done.rewrapped,
        /// Data keys that the current master key wraps.
        current: usize = done.current,
        /// Master keys that this server was not given and that are needed still.
        left: Vec<MasterKeyUse> = done.left.into_iter().map(|(id, keys)| MasterKeyUse::new(id, keys)).collect(),
    }

    /// A master key and how many data keys it wraps.
    MasterKeyUse from (id: String, keys: usize) {
        /// Made from the key.
        master_key: String = id,
        keys: usize = keys,
    }
}

/// The secrets of the tenant, without their values.
#[utoipa::path(get, path = "/v1/secrets", tag = "secrets", responses((status = 200, body = SecretList)))]
pub(crate) async fn list(Context { api, caller, .. }: Context) -> Result {
    ok(&SecretList::new(secrets(&api).list(&caller.tenant).await?))
}

/// One secret, without its value.
#[utoipa::path(get, path = "/v1/secrets/{name}", tag = "secrets", responses((status = 200, body = SecretView)))]
pub(crate) async fn show(Context { api, caller, id: name, .. }: Context<SecretName>) -> Result {
    let found = secrets(&api).show(&caller.tenant, &name).await?.ok_or_else(|| no_secret(&name))?;
    let version = found.version;
    tagged(&SecretView::new(found), version)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PutQuery {
    /// Where it may be sent, with commas between: `api.example.com`, `*.example.com:8443`, `http://127.0.0.1:8080`. https, unless
    /// it says otherwise. None: nowhere.
    hosts: Option<String>,
    /// It may be put into text bodies of requests, and not only into headers.
    #[serde(default)]
    body: bool,
    /// Code with the permission `secret NAME reveal` may have the value.
    #[serde(default)]
    reveal: bool,
}

impl PutQuery {
    fn terms(&self) -> Result<Terms> {
        let texts = self.hosts.iter().flat_map(|hosts| hosts.split(',')).filter(|host| !host.is_empty());
        let hosts = texts.map(str::parse).collect::<umbel_secrets::Result<Vec<SecretHost>>>().map_err(refusal)?;
        Ok(Terms { hosts, body: self.body, reveal: self.reveal })
    }
}

/// Any bytes.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "describes the body, is never built")]
pub(crate) struct SecretBytes(Vec<u8>);

/// Sets a secret: its value is the body, whatever its media type. Needs the right `grant`. Attempts use it at most a second later.
#[utoipa::path(
    put, path = "/v1/secrets/{name}", tag = "secrets",
    params(
        PutQuery,
        ("If-Match" = Option<String>, Header, description = "The entity tag that was read: refuse when it has changed"),
        ("If-None-Match" = Option<String>, Header, description = "`*`: refuse when there is such a secret"),
    ),
    request_body(content = SecretBytes, content_type = "application/octet-stream"),
    responses((status = 200, body = SecretView, description = "Set; `ETag` is its version"))
)]
pub(crate) async fn put(
    cx: Context<SecretName>,
    Query(query): Query<PutQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result {
    let Context { api, caller, id: name, .. } = cx;
    // From here on this process zeroes the memory that it frees: the body is in buffers of the connection.
    hold_secrets();
    let has_key = api.config.master_keys.current().map(drop).ok_or_else(no_master_key);
    let checked = caller.must_grant().and(has_key).and_then(|()| Ok((query.terms()?, expected(&headers)?)));
    let ((terms, expect), body) = or_drain(checked, body).await?;
    let value = SecretValue::new(read_bytes(&api, &headers, body, MAX_REVEALED_BYTES).await?.to_vec());
    let new = NewSecret { terms: &terms, value: &value, expect, now: now_ms() };
    // A new one is counted with all others of the tenant: that is reading a list. Not before the body is there, which may be slow.
    let is_new = secrets(&api).show(&caller.tenant, &name).await.is_ok_and(|found| found.is_none());
    let _list = if is_new { Some(api.lists.acquire(&caller.tenant).await?) } else { None };
    let put = secrets(&api).put(&caller.tenant, &name, new).await.map_err(problem)?;
    match put {
        SecretPut::Stored(secret) => {
            tracing::info!(tenant = %caller.tenant, secret = %name, version = secret.version, "secret set");
            let version = secret.version;
            tagged(&SecretView::new(secret), version)
        }
        SecretPut::Conflict(found) => Err(conflict(found)),
        SecretPut::Full => Err(Problem::too_many_documents(format!(
            "a tenant has at most {} secrets: delete those that are not needed",
            umbel_compose::MAX_SECRETS
        ))),
        SecretPut::StorageFull => Err(storage_quota::of_documents(&api, &caller.tenant).await),
    }
}

/// Deletes a secret. Needs the right `grant`. Attempts that use it are refused at most a second later.
#[utoipa::path(
    delete, path = "/v1/secrets/{name}", tag = "secrets",
    params(("If-Match" = Option<String>, Header, description = "The entity tag that was read: refuse when it has changed")),
    responses((status = 204, description = "It is gone"))
)]
pub(crate) async fn delete(cx: Context<SecretName>, headers: HeaderMap) -> Result {
    let Context { api, caller, id: name, .. } = cx;
    caller.must_grant()?;
    let expect = expected(&headers)?.unwrap_or(Expect::Any);
    if secrets(&api).show(&caller.tenant, &name).await.is_ok_and(|found| found.is_none()) {
        return Err(no_secret(&name));
    }
    match secrets(&api).delete(&caller.tenant, &name, expect).await? {
        DocumentPut::Stored(_) => {
            tracing::info!(tenant = %caller.tenant, secret = %name, "secret deleted");
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        DocumentPut::Conflict(found) => Err(conflict(found)),
        DocumentPut::Full | DocumentPut::StorageFull => Err(Problem::no_broker_answer()),
    }
}

/// Makes a new data key for the tenant and seals all its secrets with it. Needs the right `grant`. What was interrupted is done by
/// doing it again.
#[utoipa::path(post, path = "/v1/secret-keys/rotate", tag = "secrets", responses((status = 200, body = Rotation)))]
pub(crate) async fn rotate(Context { api, caller, .. }: Context) -> Result {
    caller.must_grant()?;
    hold_secrets();
    // It reads all secrets, as a list does.
    let _list = api.lists.acquire(&caller.tenant).await?;
    let rotated = secrets(&api).rotate(&caller.tenant, now_ms()).await.map_err(problem)?;
    tracing::info!(tenant = %caller.tenant, sealed = rotated.sealed, "data key rotated");
    ok(&Rotation::new(rotated))
}

/// Wraps the data keys of all tenants by the server's first master key, so that the others are needed no more. For operators.
#[utoipa::path(post, path = "/v1/secret-keys/rewrap", tag = "secrets", responses((status = 200, body = Rewrapping)))]
pub(crate) async fn rewrap(Operator(Context { api, caller, .. }): Operator<()>) -> Result {
    let _list = api.lists.acquire(&caller.tenant).await?;
    let done = secrets(&api).rewrap().await.map_err(problem)?;
    tracing::info!(rewrapped = done.rewrapped, current = done.current, "data keys wrapped anew");
    ok(&Rewrapping::new(done))
}

fn secrets(api: &Api) -> Secrets<'_> {
    Secrets { broker: &*api.broker, masters: &api.config.master_keys }
}

fn no_secret(name: &SecretName) -> Problem {
    Problem::secret_not_found(format!("there is no secret `{name}`"))
}

fn no_master_key() -> Problem {
    let advice = "start server and workers with --master-key-file FILE; `openssl rand -base64 32` makes a key";
    Problem::no_master_key(format!("this server has no master key, without which it keeps no secret: {advice}"))
}

fn conflict(found: u64) -> Problem {
    match found {
        0 => Problem::version_conflict("there is no such secret, or it was deleted"),
        found => {
            let detail = format!("the secret has version {found}: look at it again, and decide anew");
            etag::with(Problem::version_conflict(detail), found)
        }
    }
}

fn problem(error: umbel_compose::Error) -> Problem {
    match error {
        umbel_compose::Error::Secret(error) => refusal(error),
        other => other.into(),
    }
}

fn refusal(error: umbel_secrets::Error) -> Problem {
    use umbel_secrets::Error as E;
    match error {
        E::Invalid(text) => Problem::invalid_secret(cut(&text)),
        E::NoMasterKeys => no_master_key(),
        E::NoMasterKey(id) => Problem::no_master_key(format!(
            "the secrets of this tenant need the master key {id}, which this server was not given"
        )),
        other => Problem::secret_unreadable(other.to_string()),
    }
}

/// What a write expects, by the headers of conditional requests.
fn expected(headers: &HeaderMap) -> Result<Option<Expect>> {
    match (if_match(headers)?, headers.get(header::IF_NONE_MATCH)) {
        (Some(version), None) => Ok(Some(Expect::Version(version))),
        (None, Some(value)) if value == "*" => Ok(Some(Expect::Absent)),
        (None, None) => Ok(None),
        _ => Err(Problem::invalid_header("send If-Match with an entity tag, or `If-None-Match: *`, not both")),
    }
}
