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
        let url = flags.url.clone().or_else(|| profile.as_ref().map(|p| p.url.clone()));
        let Some(url) = url else {
            return Err(Failure::new("no_server", "no server is known here")
                .exit(Exit::Usage)
                .help("start one with `umbel dev` in this folder, or give --url and --token"));
        };
        let url = url.trim_end_matches('/').to_owned();
        // A profile's token is for its own server, and is not sent to another.
        let profile = profile.filter(|p| flags.url.is_none() || p.url.trim_end_matches('/') == url);
        let Some(token) = flags.token.clone().or_else(|| profile.map(|p| p.token)) else {
            return Err(Failure::new("no_token", format!("no token for {url} is known here"))
                .exit(Exit::Auth)
                .help("give --token, or set UMBEL_TOKEN; `umbel token create` makes one"));
        };
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
