//! The client verbs: HTTP requests and what people see of the answers.

pub mod arguments;
pub mod dead;
pub mod job;
pub mod module;
pub mod queue;
pub mod task;
pub mod worker;

use std::time::Duration;

use reqwest::{Method, RequestBuilder, StatusCode};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    args::{PageFlags, ServerFlags},
    failure::{Exit, Failure},
    output::{Page, bad_answer},
    serve::profile::Profile,
};

/// Items of one request, the server's limit.
const PAGE: u32 = 200;
/// Longest `?wait=` of the server.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// A server and a token for it.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    token: String,
}

/// A failure as the server tells it (RFC 9457).
#[derive(Debug, Deserialize)]
struct Problem {
    #[serde(default)]
    code: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    errors: Vec<FieldError>,
    #[serde(default)]
    request_id: String,
}

#[derive(Debug, Deserialize)]
struct FieldError {
    pointer: String,
    detail: String,
}

impl Client {
    /// Flags and environment first, then the nearest profile.
    pub fn from_flags(flags: &ServerFlags) -> Result<Self, Failure> {
        let profile = if flags.url.is_some() && flags.token.is_some() { None } else { Profile::find() };
        let (url, token) = destination(flags, profile)?;
        if !url.starts_with("http://") {
            return Err(Failure::usage("the server's address must start with http://")
                .help("this build speaks no TLS: use a tunnel or a local proxy for https"));
        }
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .user_agent(concat!("umbel/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .build()
            .map_err(|e| Failure::new("client", e.to_string()))?;
        Ok(Self { http, url, token })
    }

    /// A request of this path, which starts with `/`.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token)
    }

    /// Sends it and answers the body of a success.
    pub async fn send(&self, request: RequestBuilder) -> Result<String, Failure> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let body = response.text().await.map_err(|error| self.unreachable(&error))?;
        if status.is_success() { Ok(body) } else { Err(problem(status, &body)) }
    }

    pub async fn get(&self, path: &str) -> Result<String, Failure> {
        self.send(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str) -> Result<String, Failure> {
        self.send(self.request(Method::POST, path)).await
    }

    /// Up to `flags.limit` items of a list, in as many requests as that takes.
    pub async fn pages(&self, path: &str, query: &[(&str, String)], flags: &PageFlags) -> Result<Page, Failure> {
        let mut all = Page { items: Vec::new(), next_cursor: flags.cursor.clone() };
        loop {
            let left = flags.limit as usize - all.items.len();
            let limit = PAGE.min(u32::try_from(left).unwrap_or(PAGE));
            let mut request = self.request(Method::GET, path).query(query).query(&[("limit", limit.to_string())]);
            if let Some(cursor) = &all.next_cursor {
                request = request.query(&[("cursor", cursor)]);
            }
            let page: Page = answer(&self.send(request).await?)?;
            all.items.extend(page.items);
            all.next_cursor = page.next_cursor;
            if all.next_cursor.is_none() || all.items.len() >= flags.limit as usize {
                return Ok(all);
            }
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let mut causes = Vec::new();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            causes.push(cause.to_string());
            source = cause.source();
        }
        causes.drain(..causes.len().saturating_sub(1));
        Failure::new("unreachable", format!("{} does not answer", self.url))
            .details(causes)
            .exit(Exit::Unavailable)
            .help("is it running? `umbel dev` starts one")
    }
}

/// The server's address, and the token for it. A token goes only to the server that it was given with: a profile's to
/// no other address, and a token of a flag or the environment to no address of a profile that does not know it (the
/// profile may be anybody's who can write a folder above this one).
fn destination(flags: &ServerFlags, profile: Option<Profile>) -> Result<(String, String), Failure> {
    let bare = |url: &str| url.trim_end_matches('/').to_owned();
    match (&flags.url, &flags.token, profile) {
        (Some(url), Some(token), _) => Ok((bare(url), token.clone())),
        (None, Some(token), Some(profile)) if profile.token == *token => Ok((bare(&profile.url), profile.token)),
        (None, Some(_), _) => Err(Failure::new("no_server", "a token is given, but not the server that it is for")
            .exit(Exit::Usage)
            .help("give --url too, or set UMBEL_URL")),
        (None, None, Some(profile)) => Ok((bare(&profile.url), profile.token)),
        (None, None, None) => Err(Failure::new("no_server", "no server is known here")
            .exit(Exit::Usage)
            .help("start one with `umbel dev` in this folder, or give --url and --token")),
        (Some(url), None, Some(profile)) if bare(&profile.url) == bare(url) => Ok((bare(url), profile.token)),
        (Some(url), None, _) => Err(Failure::new("no_token", format!("no token for {} is known here", bare(url)))
            .exit(Exit::Auth)
            .help("give --token, or set UMBEL_TOKEN; `umbel token create` makes one")),
    }
}

/// A typed answer.
pub fn answer<T: DeserializeOwned>(body: &str) -> Result<T, Failure> {
    serde_json::from_str(body).map_err(|_| bad_answer())
}

fn problem(status: StatusCode, body: &str) -> Failure {
    let Ok(problem) = serde_json::from_str::<Problem>(body) else {
        return Failure::new("http", format!("the server answered {status}")).exit(exit_of(status, ""));
    };
    let message =
        if problem.detail.is_empty() { problem.title } else { format!("{}: {}", problem.title, problem.detail) };
    let mut details: Vec<String> = problem.errors.iter().map(|e| format!("{}: {}", e.pointer, e.detail)).collect();
    if status.is_server_error() && !problem.request_id.is_empty() {
        details.push(format!("request {}", problem.request_id));
    }
    let exit = exit_of(status, &problem.code);
    let failure = Failure::new(problem.code, message).details(details).exit(exit);
    match exit {
        Exit::Auth => failure.help("give another token with --token; `umbel token create` makes one"),
        Exit::Unavailable => failure.help("try again later"),
        _ => failure,
    }
}

fn exit_of(status: StatusCode, code: &str) -> Exit {
    match status.as_u16() {
        _ if code == "idempotency_conflict" => Exit::Conflict,
        401 | 403 => Exit::Auth,
        404 => Exit::NotFound,
        409 | 412 => Exit::Conflict,
        429 | 502 | 503 | 504 | 507 => Exit::Unavailable,
        _ => Exit::Failure,
    }
}

/// `wait` cut to what one request may wait, as the server reads it.
pub fn wait_query(wait: Duration) -> String {
    format!("{}ms", wait.min(MAX_WAIT).as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_only_to_the_server_that_it_was_given_with() {
        let chosen = |url: Option<&str>, token: Option<&str>, profile: bool| {
            let flags = ServerFlags { url: url.map(Into::into), token: token.map(Into::into) };
            let profile = profile.then(|| Profile { url: "http://near/".into(), token: "p".into() });
            destination(&flags, profile).map_err(|failure| failure.code)
        };
        let ok = |url: &str, token: &str| Ok((url.to_owned(), token.to_owned()));
        assert_eq!(chosen(Some("http://a/"), Some("t"), true), ok("http://a", "t"));
        assert_eq!(chosen(None, None, true), ok("http://near", "p"));
        assert_eq!(chosen(None, Some("p"), true), ok("http://near", "p"));
        assert_eq!(chosen(None, Some("t"), true), Err("no_server".into()));
        assert_eq!(chosen(None, Some("t"), false), Err("no_server".into()));
        assert_eq!(chosen(None, None, false), Err("no_server".into()));
        assert_eq!(chosen(Some("http://near"), None, true), ok("http://near", "p"));
        assert_eq!(chosen(Some("http://far"), None, true), Err("no_token".into()));
    }

    #[test]
    fn a_problem_becomes_a_failure_with_its_places_and_exit_code() {
        let body = r#"{"type":"urn:x","title":"The arguments do not fit the task","status":422,"detail":"/args/0: x",
            "code":"invalid_arguments","retryable":false,"errors":[{"pointer":"/args/0","detail":"not a number"}]}"#;
        let failure = problem(StatusCode::UNPROCESSABLE_ENTITY, body);
        assert_eq!((failure.code.as_str(), failure.exit), ("invalid_arguments", Exit::Failure));
        assert_eq!(failure.details, ["/args/0: not a number"]);
        assert_eq!(problem(StatusCode::NOT_FOUND, "<html>").exit, Exit::NotFound);
        assert_eq!(exit_of(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_conflict"), Exit::Conflict);
        assert_eq!(exit_of(StatusCode::SERVICE_UNAVAILABLE, ""), Exit::Unavailable);
    }
}
