//! The extractors of the handlers: the caller, parameters of path and query, JSON bodies. Their errors are problems.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{FromRequest, FromRequestParts, RawPathParams, Request},
    http::request::Parts,
};
use serde::{Deserialize, de::DeserializeOwned};
use umbel_compose::plain;
use umbel_model::{
    BucketName, Digest, DigestPrefix, InvalidName, JobId, KvKey, QueueName, ScheduleName, SecretName, TaskName,
    TenantId, WorkerId, WorkflowId, human,
};
use utoipa::IntoParams;

use crate::{
    auth::Caller,
    body::{Checked, is_empty, object_of},
    middleware::RequestId,
    problem::{Code, Problem, Result, cut},
    state::Api,
};

/// The state of the API, the caller, and what the path names.
pub(crate) struct Context<T: Named = ()> {
    pub(crate) api: Arc<Api>,
    pub(crate) caller: Caller,
    pub(crate) request_id: RequestId,
    pub(crate) id: T::Name,
}

impl<T: Named> FromRequestParts<Arc<Api>> for Context<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self> {
        let (caller, request_id) = (parts.extensions.get::<Caller>(), parts.extensions.get::<RequestId>());
        // The middleware puts both there.
        let (caller, request_id) = caller.cloned().zip(request_id.cloned()).ok_or_else(Problem::see_log)?;
        let parameters = RawPathParams::from_request_parts(parts, api).await.ok();
        let texts: Vec<&str> = parameters.iter().flat_map(|all| all.iter().map(|(_, text)| text)).collect();
        Ok(Self { api: api.clone(), caller, request_id, id: T::of_path(&texts)? })
    }
}

/// The context of a caller who may order workers; others are refused before anything else of the request is read.
pub(crate) struct Operator<T: Named>(pub(crate) Context<T>);

impl<T: Named> FromRequestParts<Arc<Api>> for Operator<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self> {
        Context::<()>::from_request_parts(parts, api).await?.caller.must_operate()?;
        Context::from_request_parts(parts, api).await.map(Self)
    }
}

/// The query, with unknown parameters refused by the type.
#[derive(Debug)]
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        axum::extract::Query::try_from_uri(&parts.uri)
            .map(|query| Self(query.0))
            .map_err(|e| Problem::invalid_query(cut(&in_words(&e.body_text()))))
    }
}

/// How long a caller wants to wait.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct WaitQuery {
    /// Answer when it has ended, or after this long: `10s`. At most 60 s.
    wait: Option<String>,
}

impl WaitQuery {
    /// The wait, within the limit.
    pub(crate) fn wait(&self, api: &Api) -> Result<Duration> {
        let Some(text) = &self.wait else { return Ok(Duration::ZERO) };
        let ms = human::duration_ms(text).map_err(|e| Problem::invalid_query(cut(&format!("wait: {e}"))))?;
        let max = api.config.max_wait_ms;
        if ms > max {
            return Err(Problem::invalid_query(format!("wait: at most {} s; ask again for longer", max / 1_000)));
        }
        // A proxy that gives up after as long must see the answer.
        Ok(Duration::from_millis(ms.min(max - max / 12)))
    }
}

/// A problem of a query, in words for people.
fn in_words(message: &str) -> String {
    let message = message.strip_prefix("Failed to deserialize query string: ").unwrap_or(message);
    let (field, problem) = message.split_once(": ").unwrap_or(("", message));
    let words = match problem {
        "invalid digit found in string" | "cannot parse integer from empty string" => "write a whole number, 0 or more",
        "number too large to fit in target type" => "the number is too large",
        "provided string was not `true` or `false`" => "write true or false",
        _ if field.starts_with("invalid ") => return plain(message),
        _ => &plain(problem),
    };
    if field.is_empty() { words.to_owned() } else { format!("{field}: {words}") }
}

/// The kind of what a path names, if anything.
pub(crate) trait Named {
    type Name;

    /// Reads the one parameter of a path; none when it is not UTF-8. A text that breaks the rule of its kind cannot exist: not
    /// found, with the rule.
    fn parse(text: Option<&str>) -> Result<Self::Name>;

    /// Reads all parameters of a path; none of them when one is not UTF-8.
    fn of_path(texts: &[&str]) -> Result<Self::Name> {
        Self::parse(texts.first().copied())
    }
}

impl Named for () {
    type Name = ();

    fn parse(_: Option<&str>) -> Result<()> {
        Ok(())
    }
}

macro_rules! named {
    ($($kind:ty: $name:ty => $code:ident;)*) => {$(
        impl Named for $kind {
            type Name = $name;

            fn parse(text: Option<&str>) -> Result<$name> {
                let text = text.ok_or_else(|| Problem::new(Code::$code, "the path is not UTF-8"))?;
                text.parse().map_err(|e: InvalidName| Problem::new(Code::$code, e.to_string()))
            }
        }
    )*};
}

named! {
    JobId: JobId => JobNotFound;
    TaskName: TaskName => TaskNotFound;
    QueueName: QueueName => QueueNotFound;
    DigestPrefix: DigestPrefix => ModuleNotFound;
    Digest: Digest => BlobNotFound;
    WorkerId: WorkerId => WorkerNotFound;
    TenantId: TenantId => TenantNotFound;
    BulkParam: JobId => BulkNotFound;
    WorkflowParam: WorkflowId => WorkflowNotFound;
    BucketName: BucketName => InvalidKey;
    KvKey: KvKey => InvalidKey;
    SecretName: SecretName => SecretNotFound;
    ScheduleName: ScheduleName => ScheduleNotFound;
}

impl Named for BackfillParam {
    type Name = (ScheduleName, String);

    fn parse(_: Option<&str>) -> Result<Self::Name> {
        Err(Problem::backfill_not_found("the path is not UTF-8"))
    }

    fn of_path(texts: &[&str]) -> Result<Self::Name> {
        match texts {
            [schedule, id] => Ok((ScheduleName::parse(Some(schedule))?, (*id).to_owned())),
            _ => Self::parse(None),
        }
    }
}

impl Named for EntryParam {
    type Name = (BucketName, KvKey);

    fn parse(_: Option<&str>) -> Result<Self::Name> {
        Err(Problem::invalid_key("the path is not UTF-8"))
    }

    fn of_path(texts: &[&str]) -> Result<Self::Name> {
        match texts {
            [bucket, key] => Ok((BucketName::parse(Some(bucket))?, KvKey::parse(Some(key))?)),
            _ => Self::parse(None),
        }
    }
}

impl Named for TokenParam {
    type Name = String;

    fn parse(text: Option<&str>) -> Result<String> {
        text.map(str::to_owned).ok_or_else(|| Problem::token_not_found("the path is not UTF-8"))
    }
}

/// The kind of a bucket and a key.
pub(crate) enum EntryParam {}

/// The kind of a schedule and one of its backfills.
pub(crate) enum BackfillParam {}

/// The kind of a token's id.
pub(crate) enum TokenParam {}

/// The kind of a bulk action's id.
pub(crate) enum BulkParam {}

/// The kind of a workflow's id.
pub(crate) enum WorkflowParam {}

/// A JSON body, an object.
#[derive(Debug)]
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Arc<Api>> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self> {
        let (parts, body) = request.into_parts();
        object_of(Checked::read(api, &parts.headers, body, api.config.max_body_bytes).await?.text()).map(Self)
    }
}

/// A JSON body, an object; the default when there is none.
#[derive(Debug)]
pub(crate) struct OptionalJson<T>(pub(crate) T);

impl<T: DeserializeOwned + Default> FromRequest<Arc<Api>> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self> {
        let (parts, body) = request.into_parts();
        if is_empty(&parts.headers) {
            return Ok(Self(T::default()));
        }
        let body = Checked::read(api, &parts.headers, body, api.config.max_body_bytes).await?;
        if body.text().trim_ascii().is_empty() {
            return Ok(Self(T::default()));
        }
        object_of(body.text()).map(Self)
    }
}
